-- Reads one chunk of a snapshot.
-- KEYS[1]  chunks    (as in put_chunk.lua)
-- ARGV[1]  index    ARGV[2] longest value read
-- Result   bytes, nil when there are none or more
-- Invariant: reads only.
if redis.call('HSTRLEN', KEYS[1], ARGV[1]) > tonumber(ARGV[2]) then
  return false
end
return redis.call('HGET', KEYS[1], ARGV[1])
