#!lua flags=no-writes
-- Some published windows: what their rows are unpacked from, for as long as what was read is not too much for one step.
--
-- KEYS[1..] results of one metric
-- ARGV[1] most groups of a window that is read here   ARGV[2] bytes of blocks after which no further window is read
-- Returns an item for each window that was looked at, in order: `groups revision state published_ms seq`, its blocks and
-- a nil; an empty item where there is no such result; nil where it has too many groups.

local most, enough = tonumber(ARGV[1]), tonumber(ARGV[2])
local answer, bytes = {}, 0
for i, key in ipairs(KEYS) do
  if bytes >= enough then break end
  local fields = redis.call('HMGET', key, 'groups', 'revision', 'state', 'published_ms', 'seq', 'b0', 'b1')
  if not fields[1] then
    answer[i] = {}
  elseif tonumber(fields[1]) > most then
    answer[i] = false
  else
    local number = 1
    while fields[#fields] do
      number = number + 1
      fields[#fields + 1] = redis.call('HGET', key, 'b' .. number)
    end
    for j = 6, #fields - 1 do bytes = bytes + #(fields[j] or '') end
    answer[i] = fields
  end
end
return answer
