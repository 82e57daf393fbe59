-- Writes the store's identity anew, under another key-encryption key.
-- KEYS[1]  identity: authenticated record
-- ARGV[1]  the record as it was read    ARGV[2] the same identity under the other key
-- Result   1 written, 0 another record is there, or none
-- Invariant: which life of the store this is never changes here: who found it emptied or replaced writes nothing. No TTL.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2])
return 1
