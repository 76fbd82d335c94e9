#!lua flags=allow-oom
-- Delete one expired result, unless it was published again after the caller looked.
--
-- KEYS[1] zset of windows by published_ms   KEYS[2] zset of windows by end   KEYS[3] result hash   KEYS[4] what has expired
-- ARGV[1] 'START:END'   ARGV[2] results published after this ms stay   ARGV[3] field of KEYS[4]: 'windows', or a tier's size
-- Returns 1 when it was deleted. The greatest start that has expired is kept: answers say from when on they have everything.

local start = string.match(ARGV[1], '^(%-?%d+):')
if not start then error('expire_result.lua: not a window: ' .. ARGV[1]) end
local published_ms = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not published_ms or tonumber(published_ms) > tonumber(ARGV[2]) then return 0 end
local known = redis.call('HGET', KEYS[4], ARGV[3])
if not known or tonumber(known) < tonumber(start) then redis.call('HSET', KEYS[4], ARGV[3], start) end
redis.call('UNLINK', KEYS[3])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
