-- One look at the revocation log, and at whose log it is.
-- KEYS[1]  identity: authenticated identity of the store
-- KEYS[2]  log    KEYS[3] head    KEYS[4] announced    (as in append.lua)
-- KEYS[5]  accepted: hash with v (version) and b (authenticated record)
-- ARGV[1]  first number wanted    ARGV[2] most entries    ARGV[3] age in ms from which an announcement is overdue
-- ARGV[4]  number of an entry to look for
-- Result   identity or nil, highest number dropped, entries as of XRANGE, up to 64 overdue devices, highest number given,
--          version and record of what was accepted, nil each, whether the entry looked for is there
-- Invariant: reads only, all of one moment.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local head = tonumber(redis.call('HGET', KEYS[3], 'last') or '0') or 0
local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if newest then
  head = math.max(head, tonumber(string.match(newest[1], '^%d+')))
end
local overdue = string.format('%.0f', now - tonumber(ARGV[3]))
return {
  redis.call('GET', KEYS[1]),
  redis.call('HGET', KEYS[3], 'trimmed') or '0',
  redis.call('XRANGE', KEYS[2], ARGV[1], '+', 'COUNT', ARGV[2]),
  redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', overdue, 'LIMIT', 0, 64),
  string.format('%.0f', head),
  redis.call('HMGET', KEYS[5], 'v', 'b'),
  #redis.call('XRANGE', KEYS[2], ARGV[4], ARGV[4], 'COUNT', 1),
}
