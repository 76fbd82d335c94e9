#!lua flags=allow-oom
-- Delete the content of a lookup table that no log refers to, unless somebody stored it again after the caller looked.
--
-- KEYS[1] content    KEYS[2] hash `HASH STREAM PARTITION` -> when the content was last stored for that partition, ms
-- ARGV[1] hash       ARGV[2..] every field of KEYS[2] about it that the caller saw, each with its value
-- Returns 1 when it is gone, 0 when it was stored again.

local seen = {}
for i = 2, #ARGV, 2 do seen[ARGV[i]] = ARGV[i + 1] end
local stored = redis.call('HGETALL', KEYS[2])
local fields = {}
for i = 1, #stored, 2 do
  if string.sub(stored[i], 1, #ARGV[1] + 1) == ARGV[1] .. ' ' then
    if seen[stored[i]] ~= stored[i + 1] then return 0 end
    fields[#fields + 1] = stored[i]
  end
end
redis.call('UNLINK', KEYS[1])
for _, field in ipairs(fields) do redis.call('HDEL', KEYS[2], field) end
return 1
