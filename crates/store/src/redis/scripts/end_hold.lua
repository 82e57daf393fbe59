-- Ends the hold of a device.
-- KEYS[1]  hold    (as in hold_device.lua)    KEYS[2]  displaced    (as in claim_device.lua)
-- Result   1 it was held, 0 it was not
-- Invariant: what led to a hold does not lead to the next one.
redis.call('DEL', KEYS[2])
return redis.call('DEL', KEYS[1])
