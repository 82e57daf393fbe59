-- Writes what belongs to a slot unless something of a later place is there.
-- KEYS[1]  hash with, for each name N, Ng (generation), No (offset), both decimal, and Nb (bytes)
-- ARGV[1]  name    ARGV[2] generation    ARGV[3] offset    ARGV[4] bytes    ARGV[5] time to live, ms
-- ARGV[6]  bytes that are replaced whatever their place, '' for none    ARGV[7] longest value that counts
-- Result   1 or 0 (written or not), then generation, offset and bytes of what was there before, nil for nothing
-- Invariant: the place never falls while the key lives, except over bytes that somebody proved to be of no use.
local g, o, b = ARGV[1] .. 'g', ARGV[1] .. 'o', ARGV[1] .. 'b'
local generation, offset = redis.call('HGET', KEYS[1], g), redis.call('HGET', KEYS[1], o)
local blob = false
local usable = redis.call('HSTRLEN', KEYS[1], b) <= tonumber(ARGV[7])
if usable then
  blob = redis.call('HGET', KEYS[1], b)
end
local later = false
local old_generation, old_offset = tonumber(generation or ''), tonumber(offset or '')
if usable and blob and old_generation and old_offset and not (ARGV[6] ~= '' and ARGV[6] == blob) then
  local new_generation = tonumber(ARGV[2])
  later = old_generation > new_generation
    or (old_generation == new_generation and old_offset > tonumber(ARGV[3]))
else
  generation, offset = false, false
end
if later then
  return { 0, generation, offset, blob }
end
redis.call('HSET', KEYS[1], g, ARGV[2], o, ARGV[3], b, ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return { 1, generation, offset, blob }
