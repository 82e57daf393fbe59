-- Who holds a device.
-- KEYS[1]  holder    (as in claim_device.lua)
-- ARGV[1]  longest record read
-- Result   number and record ('' when it is longer), nil and nil for none
-- Invariant: reads only.
local number = redis.call('HGET', KEYS[1], 'e')
if not number then
  return { false, false }
end
if redis.call('HSTRLEN', KEYS[1], 'b') > tonumber(ARGV[1]) then
  return { number, '' }
end
return { number, redis.call('HGET', KEYS[1], 'b') or '' }
