-- Notes how far a pod has applied the revocation log, and forgets pods that were silent for long.
-- KEYS[1]  applied: hash of pod -> position    KEYS[2] seen: sorted set of pod -> time, ms
-- ARGV[1]  pod    ARGV[2] position    ARGV[3] age in ms from which a pod is forgotten
-- Result   1
-- Invariant: a position never falls while its pod is known; both keys name the same pods, and expire when all are silent.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local forgotten = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now - tonumber(ARGV[3])))
for _, pod in ipairs(forgotten) do
  redis.call('HDEL', KEYS[1], pod)
  redis.call('ZREM', KEYS[2], pod)
end
local before = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0')
if tonumber(ARGV[2]) >= before then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
redis.call('ZADD', KEYS[2], string.format('%.0f', now), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return 1
