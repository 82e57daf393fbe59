-- Puts the copy of the revocation log in its place.
-- KEYS[1]  log    KEYS[2] copy    KEYS[3] head    (as in append.lua and copy_to_log.lua)
-- ARGV[1]  number after the last one copied
-- Result   1 done, 0 the log has gone on, -1 it is no copy of this log
-- Invariant: the log has the same numbers before and after.
if #redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', 1) > 0 then
  return 0
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('DEL', KEYS[2])
  return 1
end
local trimmed = redis.call('HGET', KEYS[3], 'trimmed')
if trimmed then
  redis.call('XTRIM', KEYS[2], 'MINID', trimmed .. '-1')
end
if redis.call('XLEN', KEYS[1]) ~= redis.call('XLEN', KEYS[2]) then
  return -1
end
if redis.call('XLEN', KEYS[2]) == 0 then
  return 1
end
redis.call('PERSIST', KEYS[2])
redis.call('RENAME', KEYS[2], KEYS[1])
return 1
