-- Reads the ring of the cluster, and the clock it is judged by.
-- KEYS[1]  ring: hash with v (version, decimal) and b (sealed ring)
-- ARGV[1]  longest value read
-- Result   time in ms, version or nil, sealed ring or nil
-- Invariant: reads only, all of one moment.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local blob = false
if redis.call('HSTRLEN', KEYS[1], 'b') <= tonumber(ARGV[1]) then
  blob = redis.call('HGET', KEYS[1], 'b')
end
return { string.format('%.0f', now), redis.call('HGET', KEYS[1], 'v'), blob }
