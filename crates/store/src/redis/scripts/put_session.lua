-- Writes a session record unless one of a later re-key epoch is there.
-- KEYS[1]  session: hash with e (re-key epoch, decimal) and b (sealed record)
-- ARGV[1]  re-key epoch    ARGV[2] sealed record    ARGV[3] time to live, ms
-- Result   1 written, 0 a later one is there
-- Invariant: the epoch never falls while the record lives; the record always has a TTL.
local stored = redis.call('HGET', KEYS[1], 'e')
if stored and tonumber(stored) > tonumber(ARGV[1]) then
  return 0
end
redis.call('HSET', KEYS[1], 'e', ARGV[1], 'b', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
