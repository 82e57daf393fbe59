-- Takes the next session number of a device.
-- KEYS[1]  epoch: the number last taken, decimal
-- ARGV[1]  time to live, ms
-- Result   the number taken, decimal
-- Invariant: numbers grow, also when the key was lost or has expired, since they start from the clock in microseconds.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local last = tonumber(redis.call('GET', KEYS[1]) or '0')
local number = string.format('%.0f', math.max(last + 1, now))
redis.call('SET', KEYS[1], number, 'PX', ARGV[1])
return number
