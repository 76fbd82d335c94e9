#!lua flags=no-writes
-- The fields of some hashes at one moment: HGETALL of each, for as long as what was read is not too much for one step.
--
-- KEYS[1..] hashes of one slot
-- ARGV[1] most fields of a hash that is read here   ARGV[2] bytes of values after which no further hash is read
-- Returns an item for each hash that was looked at, in order: its fields and values, or nil where it has too many.

local most, enough = tonumber(ARGV[1]), tonumber(ARGV[2])
local answer, bytes = {}, 0
for i, key in ipairs(KEYS) do
  if bytes >= enough then break end
  if redis.call('HLEN', key) > most then
    answer[i] = false
  else
    local fields = redis.call('HGETALL', key)
    for j = 2, #fields, 2 do bytes = bytes + #fields[j] end
    answer[i] = fields
  end
end
return answer
