-- Holds a device for a time.
-- KEYS[1]  hold: authenticated record, there while the device is held
-- ARGV[1]  record    ARGV[2] time to hold, ms
-- Result   1 written, 0 it is held for longer already
-- Invariant: a hold is never cut short by another one. The key has a TTL.
if redis.call('PTTL', KEYS[1]) >= tonumber(ARGV[2]) then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
