#!lua flags=allow-oom
-- Delete one expired result, unless it was published again after the caller looked.
--
-- KEYS[1] zset of windows by published_ms   KEYS[2] zset of windows by end   KEYS[3] result hash
-- ARGV[1] 'START:END'   ARGV[2] results published after this ms stay
-- Returns 1 when it was deleted.

local published_ms = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not published_ms or tonumber(published_ms) > tonumber(ARGV[2]) then return 0 end
redis.call('UNLINK', KEYS[3])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
