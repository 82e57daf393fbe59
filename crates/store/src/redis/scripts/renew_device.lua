-- Prolongs the holding of a device.
-- KEYS[1]  holder    (as in claim_device.lua)
-- ARGV[1]  session    ARGV[2] record    ARGV[3] time to hold, ms
-- Result   1 prolonged, 0 the session does not hold the device
-- Invariant: only the holder changes anything.
if redis.call('HGET', KEYS[1], 's') ~= ARGV[1] then
  return 0
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('HSET', KEYS[1], 'b', ARGV[2], 'until', string.format('%.0f', now + tonumber(ARGV[3])))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
