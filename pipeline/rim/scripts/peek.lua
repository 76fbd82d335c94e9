#!lua flags=no-writes
-- Where a stream ends, and which entry comes first after each of some ids: ids only. XINFO STREAM and XRANGE would send
-- the entries along, and a chunk has up to 4 MB.
--
-- KEYS[1] stream
-- ARGV[1..n] entry ids; an empty one is before all
-- Returns {last id, first id after ARGV[1], first id after ARGV[2], ...}; '' where there is none.

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local answer = { last[1] and last[1][1] or '' }
for i, id in ipairs(ARGV) do
  local after = ''
  if id ~= answer[1] then
    local found = redis.call('XRANGE', KEYS[1], id == '' and '-' or '(' .. id, '+', 'COUNT', 1)
    after = found[1] and found[1][1] or ''
  end
  answer[i + 1] = after
end
return answer
