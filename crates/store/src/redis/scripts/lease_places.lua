-- Leases places of a tenant to a pod.
-- KEYS[1]  places: hash of pod -> number:end of the lease in ms
-- ARGV[1]  pod    ARGV[2] places of all pods together    ARGV[3] places wanted    ARGV[4] time of the lease, ms
-- ARGV[5]  most pods
-- Result   places granted
-- Invariant: leases in force add up to no more than the limit they were granted under; what has ended is gone. The key expires
-- with the last lease.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local limit, wanted = tonumber(ARGV[2]), tonumber(ARGV[3])
local ends = now + tonumber(ARGV[4])
local used, pods, last = 0, 0, ends
-- Somebody else's doing: start anew rather than read without end.
if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[5]) then
  redis.call('DEL', KEYS[1])
end
local leases = redis.call('HGETALL', KEYS[1])
for index = 1, #leases, 2 do
  local number, until_ = string.match(leases[index + 1], '^(%d+):(%d+)$')
  number, until_ = tonumber(number), tonumber(until_)
  if not number or until_ <= now then
    redis.call('HDEL', KEYS[1], leases[index])
  elseif leases[index] ~= ARGV[1] then
    used = used + number
    pods = pods + 1
    last = math.max(last, until_)
  end
end
local granted = math.max(0, math.min(wanted, limit - used))
if granted == 0 or pods >= tonumber(ARGV[5]) then
  redis.call('HDEL', KEYS[1], ARGV[1])
  granted = 0
else
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f:%.0f', granted, ends))
end
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', last - now))
return granted
