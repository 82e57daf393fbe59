-- How far each pod has applied the revocation log.
-- KEYS[1]  applied    KEYS[2] seen    (as in report_applied.lua)
-- ARGV[1]  age in ms from which a pod is forgotten
-- Result   rows of pod, position, age in ms
-- Invariant: reads only, all of one moment.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local rows = {}
local oldest = '(' .. string.format('%.0f', now - tonumber(ARGV[1]))
for _, pod in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], oldest, '+inf')) do
  local age = math.max(0, now - tonumber(redis.call('ZSCORE', KEYS[2], pod)))
  rows[#rows + 1] = { pod, redis.call('HGET', KEYS[1], pod) or '0', string.format('%.0f', age) }
end
return rows
