-- Takes a device over for a session: its next number, and who is displaced.
-- KEYS[1]  epoch: the number last taken, decimal (as in take_epoch.lua)
-- KEYS[2]  holder: hash with s (session), e (its number), b (authenticated record), until (end of the holding, ms), and pe, pb:
--          number and record of the one it displaced
-- KEYS[3]  displaced: list of times, ms, the newest first
-- ARGV[1]  session    ARGV[2] record    ARGV[3] time to hold, ms    ARGV[4] time to live of the epoch, ms
-- ARGV[5]  window of displacements, ms    ARGV[6] most displacements    ARGV[7] longest record read
-- Result   number, number and record of the one displaced (nil, nil for none), displacements in the window
-- Invariant: the number is above every one before it; a session that claims again keeps its number and what it displaced. All
-- keys have a TTL.
local time = redis.call('TIME')
local micros = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now = math.floor(micros / 1000)
local function record(field)
  if redis.call('HSTRLEN', KEYS[2], field) > tonumber(ARGV[7]) then
    return ''
  end
  return redis.call('HGET', KEYS[2], field)
end
local function displacements()
  local count = 0
  for _, at in ipairs(redis.call('LRANGE', KEYS[3], 0, tonumber(ARGV[6]) - 1)) do
    if now - (tonumber(at) or 0) < tonumber(ARGV[5]) then
      count = count + 1
    end
  end
  return count
end
local held = (tonumber(redis.call('HGET', KEYS[2], 'until') or '0') or 0) > now
local number = redis.call('HGET', KEYS[2], 'e')
local until_ = string.format('%.0f', now + tonumber(ARGV[3]))
if held and number and redis.call('HGET', KEYS[2], 's') == ARGV[1] then
  redis.call('HSET', KEYS[2], 'b', ARGV[2], 'until', until_)
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
  return { number, redis.call('HGET', KEYS[2], 'pe'), record('pb'), displacements() }
end
local before, blob = false, false
if held and number then
  before, blob = number, record('b')
  redis.call('LPUSH', KEYS[3], string.format('%.0f', now))
  redis.call('LTRIM', KEYS[3], 0, tonumber(ARGV[6]) - 1)
  redis.call('PEXPIRE', KEYS[3], ARGV[5])
end
local last = tonumber(redis.call('GET', KEYS[1]) or '0') or 0
number = string.format('%.0f', math.max(last + 1, micros))
redis.call('SET', KEYS[1], number, 'PX', ARGV[4])
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], 's', ARGV[1], 'e', number, 'b', ARGV[2], 'until', until_)
if before then
  redis.call('HSET', KEYS[2], 'pe', before, 'pb', blob or '')
end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return { number, before, blob, displacements() }
