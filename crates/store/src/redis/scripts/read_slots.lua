-- Reads what was written for slots by put_newer.lua.
-- KEYS[1]  as in put_newer.lua
-- ARGV[1]  longest value read    ARGV[2] most fields read
-- Result   rows of name, generation, offset, bytes ('' when longer)
-- Invariant: reads only. With more fields than anybody of ours writes, nothing is read.
local rows = {}
if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[2]) then
  return rows
end
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  local name = string.match(field, '^(%d*)b$')
  if name then
    local blob = ''
    if redis.call('HSTRLEN', KEYS[1], field) <= tonumber(ARGV[1]) then
      blob = redis.call('HGET', KEYS[1], field)
    end
    local generation = redis.call('HGET', KEYS[1], name .. 'g')
    local offset = redis.call('HGET', KEYS[1], name .. 'o')
    rows[#rows + 1] = { name, generation or '', offset or '', blob }
  end
end
return rows
