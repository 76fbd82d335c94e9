#!lua flags=allow-oom
-- Forget live sessions that are final and published, if the partition still is where the caller's state is.
--
-- KEYS[1] checkpoint hash   KEYS[2] hash of live sessions
-- ARGV[1] cursor ('' = none)   ARGV[2] commit number   ARGV[3] max_seen_ms ('' = none)   ARGV[4..] fields
-- Returns how many went, or -1 when the checkpoint is another one: the sessions there may be other ones too.

local checkpoint = redis.call('HMGET', KEYS[1], 'torn', 'cursor', 'commit', 'max_seen_ms')
if checkpoint[1] or (checkpoint[2] or '') ~= ARGV[1] or (checkpoint[3] or '0') ~= ARGV[2] or (checkpoint[4] or '') ~= ARGV[3] then
  return -1
end
local gone = redis.call('HDEL', KEYS[2], unpack(ARGV, 4))
if string.match(redis.call('HGET', KEYS[1], 'sessions') or '', '^%d+$') then
  redis.call('HINCRBY', KEYS[1], 'sessions', -gone)
end
return gone
