-- Adds entries to a copy of the revocation log, with other bytes under the numbers and requests they have.
-- KEYS[1]  log (as in append.lua)    KEYS[2] copy
-- ARGV     number and bytes in turn, numbers rising
-- Result   1
-- Invariant: every entry of the copy is one of the log, or was trimmed from it. The copy is made anew each time; one that was left
-- half-way ends after an hour.
for index = 1, #ARGV, 2 do
  local entry = redis.call('XRANGE', KEYS[1], ARGV[index], ARGV[index], 'COUNT', 1)[1]
  if entry then
    redis.call('XADD', KEYS[2], entry[1], 'r', entry[2][2], 'b', ARGV[index + 1])
  end
end
redis.call('PEXPIRE', KEYS[2], 3600000)
return 1
