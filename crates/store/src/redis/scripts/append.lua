-- Appends to the revocation log, once for each request, and settles the announcement.
-- KEYS[1]  log: stream of n-0 -> r (request), b (authenticated entry)
-- KEYS[2]  head: hash with last (highest number given) and trimmed (highest number dropped)
-- KEYS[3]  logged: hash of request -> number
-- KEYS[4]  announced: sorted set of device -> time, ms
-- ARGV[1]  device    ARGV[2] request    ARGV[3] entry    ARGV[4] most entries to keep
-- ARGV[5]  number known to have been given, 0 for none
-- Result   the entry's number, decimal
-- Invariant: numbers grow, also when the log was lost (they start from the clock); one request has one number while its
-- entry is kept. No TTL: the log is bounded by ARGV[4], the others by it.
redis.call('ZREM', KEYS[4], ARGV[1])
local known = redis.call('HGET', KEYS[3], ARGV[2])
if known then
  return known
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local last = tonumber(redis.call('HGET', KEYS[2], 'last') or '0')
local number = string.format('%.0f', math.max(last + 1, tonumber(ARGV[5]) + 1, now))
redis.call('XADD', KEYS[1], number .. '-0', 'r', ARGV[2], 'b', ARGV[3])
redis.call('HSET', KEYS[2], 'last', number)
redis.call('HSET', KEYS[3], ARGV[2], number)
while redis.call('XLEN', KEYS[1]) > tonumber(ARGV[4]) do
  local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
  redis.call('XDEL', KEYS[1], oldest[1])
  redis.call('HDEL', KEYS[3], oldest[2][2])
  redis.call('HSET', KEYS[2], 'trimmed', string.match(oldest[1], '^%d+'))
end
return number
