-- Announces that a device is about to lose its right to connect.
-- KEYS[1]  announced: sorted set of device -> time, ms
-- ARGV[1]  device
-- Result   1
-- Invariant: the time is that of the newest announcement. No TTL: any watching pod settles it within seconds.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
return 1
