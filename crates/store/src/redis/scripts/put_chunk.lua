-- Writes one chunk of a snapshot.
-- KEYS[1]  chunks: hash of index -> sealed bytes
-- ARGV[1]  index    ARGV[2] bytes    ARGV[3] time to live, ms
-- Result   1
-- Invariant: the key always has a TTL.
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
