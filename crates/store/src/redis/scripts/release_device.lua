-- Gives a device up.
-- KEYS[1]  holder    (as in claim_device.lua)
-- ARGV[1]  session
-- Result   1 given up, 0 the session does not hold the device
-- Invariant: only the holder changes anything; displacements stay counted.
if redis.call('HGET', KEYS[1], 's') ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1])
return 1
