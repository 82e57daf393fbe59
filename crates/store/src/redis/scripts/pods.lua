-- The pods that were announced and not retired.
-- KEYS[1]  records    KEYS[2] until    (as in announce_pod.lua)
-- ARGV[1]  time a silent pod is named, ms    ARGV[2] most pods    ARGV[3] longest record read
-- Result   rows of pod, record ('' when it is longer or missing), 1 when it lives else 0
-- Invariant: reads only, all of one moment.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local oldest = '(' .. string.format('%.0f', now - tonumber(ARGV[1]))
local rows = {}
local named = redis.call('ZREVRANGEBYSCORE', KEYS[2], '+inf', oldest, 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for index = 1, #named, 2 do
  local pod = named[index]
  local record = ''
  if redis.call('HSTRLEN', KEYS[1], pod) <= tonumber(ARGV[3]) then
    record = redis.call('HGET', KEYS[1], pod) or ''
  end
  -- A longer name is none that a pod has.
  if #pod <= 64 then
    rows[#rows + 1] = { pod, record, tonumber(named[index + 1]) > now and 1 or 0 }
  end
end
return rows
