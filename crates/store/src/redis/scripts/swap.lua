-- Writes a record if its stored version is the expected one.
-- KEYS[1]  record: hash with v (version, decimal) and b (authenticated record)
-- ARGV[1]  expected version, 0 for none    ARGV[2] new version    ARGV[3] new record
-- Result   1 written, 0 another version is there
-- Invariant: v and b change together, and the version a writer has read is the one it replaces. No TTL: the registry.
if (redis.call('HGET', KEYS[1], 'v') or '0') ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[1], 'v', ARGV[2], 'b', ARGV[3])
return 1
