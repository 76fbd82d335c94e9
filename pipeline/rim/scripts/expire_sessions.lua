#!lua flags=allow-oom
-- Delete some expired sessions of one bucket, unless it was published to again after the caller looked.
--
-- KEYS[1] zset of buckets by published_ms   KEYS[2] zset of buckets by end   KEYS[3] hash of the bucket   KEYS[4] latest hash
-- KEYS[5] what has expired: the greatest `first` under 'windows'
-- ARGV[1] bucket start   ARGV[2] buckets published to after this ms stay   ARGV[3..] fields 'FIRST:LAST GROUPJSON'
-- Returns how many are left in the bucket, or -1 when it stays.

local published_ms = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not published_ms or tonumber(published_ms) > tonumber(ARGV[2]) then return -1 end
local newest_first = redis.call('HGET', KEYS[5], 'windows')
for i = 3, #ARGV do
  local first, group = string.match(ARGV[i], '^(%-?%d+):%-?%d+ (.*)$')
  local newest = redis.call('HGET', KEYS[4], group)
  if newest and string.match(newest, '^{"window_start":(%-?%d+),') == first then redis.call('HDEL', KEYS[4], group) end
  redis.call('HDEL', KEYS[3], ARGV[i])
  if not newest_first or tonumber(first) > tonumber(newest_first) then newest_first = first end
end
if newest_first then redis.call('HSET', KEYS[5], 'windows', newest_first) end
local left = redis.call('HLEN', KEYS[3])
if left == 0 then
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
end
return left
