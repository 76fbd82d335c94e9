#!lua flags=allow-oom
-- Put a result back into the two lists of a metric's results, of which somebody deleted one.
--
-- KEYS[1] hash of the result, or of a bucket of sessions   KEYS[2] zset of windows by end   KEYS[3] zset by published_ms
-- ARGV[1] 'START:END' or bucket   ARGV[2] score among the windows, '' = it is open and not among them   ARGV[3] published_ms
-- Returns in how many of them it was missing; none when the result has gone meanwhile.

if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local added = redis.call('ZADD', KEYS[3], 'NX', ARGV[3], ARGV[1])
if ARGV[2] ~= '' then added = added + redis.call('ZADD', KEYS[2], 'NX', ARGV[2], ARGV[1]) end
return added
