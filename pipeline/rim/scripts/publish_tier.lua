#!lua flags=allow-oom
-- Publish one window of a tier: merged from the published windows in it, if it saw a newer publication than the stored one.
--
-- KEYS[1] staged result hash    KEYS[2] result hash     KEYS[3] zset of the tier's windows by end
-- KEYS[4] zset of them by published_ms
-- ARGV[1] start_ms  ARGV[2] end_ms  ARGV[3] groups  ARGV[4] newest publication merged  ARGV[5] windows merged
-- Returns the revision it was published with, -1 when the stored one saw as much, -2 when the stage is gone, -3 when it was
-- merged from more windows than are left: then it is better than what could be put in its place.

for _, at in ipairs({4, 5}) do
  if not string.match(ARGV[at], '^%d+$') then error('publish_tier.lua: not a count: ' .. ARGV[at]) end
end
local wanted = {'hash', 'hash', 'zset', 'zset'}
for i = 1, #KEYS do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'none' and kind ~= wanted[i] then error('publish_tier.lua: ' .. KEYS[i] .. ' is a ' .. kind) end
end
if redis.call('EXISTS', KEYS[1]) == 0 then return -2 end
local stored = redis.call('HMGET', KEYS[2], 'revision', 'seq', 'windows')
local revision = 0
if stored[1] then
  if tonumber(stored[2]) >= tonumber(ARGV[4]) then return -1 end
  if tonumber(stored[3]) > tonumber(ARGV[5]) then return -3 end
  revision = tonumber(stored[1]) + 1
end

local time = redis.call('TIME')
local now_ms = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
local window = ARGV[1] .. ':' .. ARGV[2]
redis.call('UNLINK', KEYS[2])
redis.call('RENAME', KEYS[1], KEYS[2])
redis.call('PERSIST', KEYS[2])
redis.call('HSET', KEYS[2], 'revision', string.format('%.0f', revision), 'state', 'closed', 'groups', ARGV[3],
  'published_ms', now_ms, 'seq', ARGV[4], 'windows', ARGV[5])
redis.call('ZADD', KEYS[3], ARGV[2], window)
redis.call('ZADD', KEYS[4], now_ms, window)
return revision
