-- Takes a pod off the list.
-- KEYS[1]  records    KEYS[2] until    (as in announce_pod.lua)
-- ARGV[1]  pod
-- Result   1
-- Invariant: both keys name the same pods.
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
