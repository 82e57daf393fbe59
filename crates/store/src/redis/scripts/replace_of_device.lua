-- Writes the hold or the holder of a device anew, with other bytes of the same meaning.
-- KEYS[1]  hold (as in hold_device.lua)    KEYS[2] holder (as in claim_device.lua)
-- ARGV[1]  record as it was read    ARGV[2] the same under another key
-- Result   1 written, 0 neither has these bytes any more
-- Invariant: nothing lives longer or shorter by it.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
  return 1
end
if redis.call('HGET', KEYS[2], 'b') == ARGV[1] then
  redis.call('HSET', KEYS[2], 'b', ARGV[2])
  return 1
end
return 0
