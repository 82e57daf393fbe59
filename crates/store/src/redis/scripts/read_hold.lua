-- Whether a device is held.
-- KEYS[1]  hold    (as in hold_device.lua)
-- ARGV[1]  longest record read
-- Result   record ('' when it is longer), nil for none
-- Invariant: reads only.
if redis.call('STRLEN', KEYS[1]) > tonumber(ARGV[1]) then
  return ''
end
return redis.call('GET', KEYS[1])
