-- Notes that a pod lives, and forgets those that were silent for long.
-- KEYS[1]  records: hash of pod -> authenticated record    KEYS[2] until: sorted set of pod -> end of its life, ms
-- ARGV[1]  pod    ARGV[2] record    ARGV[3] time it lives, ms    ARGV[4] time it is named after that, ms    ARGV[5] most pods
-- Result   1
-- Invariant: both keys name the same pods, at most ARGV[5] (those silent for the longest go first), and expire when all are
-- silent.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function forget(pods)
  for _, pod in ipairs(pods) do
    redis.call('HDEL', KEYS[1], pod)
    redis.call('ZREM', KEYS[2], pod)
  end
end
forget(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now - tonumber(ARGV[4])), 'LIMIT', 0, 100))
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], string.format('%.0f', now + tonumber(ARGV[3])), ARGV[1])
while redis.call('ZCARD', KEYS[2]) > tonumber(ARGV[5]) do
  forget(redis.call('ZRANGE', KEYS[2], 0, 0))
end
local life = string.format('%.0f', tonumber(ARGV[3]) + tonumber(ARGV[4]))
redis.call('PEXPIRE', KEYS[1], life)
redis.call('PEXPIRE', KEYS[2], life)
return 1
