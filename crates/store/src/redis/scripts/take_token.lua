-- Takes a token of a bucket that refills evenly, in the manner of GCRA.
-- KEYS[1]  limit: when the bucket will be full, microseconds of the server's clock
-- ARGV[1]  tokens that fit    ARGV[2] time from empty to full, microseconds
-- Result   0 taken, otherwise microseconds until one is there
-- Invariant: in any span, no more than a burst and the refill of the span is taken (a microsecond per token aside). The key
-- expires when the bucket is full, which is what a missing key means.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local burst, refill = tonumber(ARGV[1]), tonumber(ARGV[2])
local stored = tonumber(redis.call('GET', KEYS[1]) or '0')
-- A clock that was set back must not shut a device out for longer than one refill.
local full_at = math.min(math.max(stored, now), now + refill) + refill / burst
local wait = full_at - now - refill - burst
if wait > 0 then
  return math.ceil(wait)
end
redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', string.format('%.0f', math.ceil((full_at - now) / 1000) + 1))
return 0
