#!lua flags=allow-oom
-- Forget live sessions that are final and published, if the partition still is where the caller's state is.
--
-- KEYS[1] checkpoint hash   KEYS[2] hash of live sessions
-- ARGV[1] cursor ('' = none)   ARGV[2] commit number   ARGV[3] max_seen_ms ('' = none)   ARGV[4] n
-- then n x field/value pairs to set, and fields to delete
-- Returns how many fields went, or -1 when the checkpoint is another one: the sessions there may be other ones too.

local n = tonumber(ARGV[4])
if not n or n < 0 or n ~= math.floor(n) or 4 + 2 * n > #ARGV then error('settle_sessions.lua: not a count: ' .. ARGV[4]) end
for i = 1, 2 do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'none' and kind ~= 'hash' then
    return redis.error_reply('WRONGTYPE settle_sessions.lua: ' .. KEYS[i] .. ' is a ' .. kind)
  end
end
local checkpoint = redis.call('HMGET', KEYS[1], 'torn', 'cursor', 'commit', 'max_seen_ms', 'sessions')
if checkpoint[1] or (checkpoint[2] or '') ~= ARGV[1] or (checkpoint[3] or '0') ~= ARGV[2] or (checkpoint[4] or '') ~= ARGV[3] then
  return -1
end
local new, gone = 0, 0
for first = 5, 4 + 2 * n, 4000 do
  new = new + redis.call('HSET', KEYS[2], unpack(ARGV, first, math.min(first + 3999, 4 + 2 * n)))
end
for first = 5 + 2 * n, #ARGV, 4000 do
  gone = gone + redis.call('HDEL', KEYS[2], unpack(ARGV, first, math.min(first + 3999, #ARGV)))
end
if string.match(checkpoint[5] or '', '^%d+$') then redis.call('HINCRBY', KEYS[1], 'sessions', new - gone) end
return gone
