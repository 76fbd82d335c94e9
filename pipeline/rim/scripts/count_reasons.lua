#!lua flags=no-writes
-- Count the values of one field in a step of a stream, newest first: the rows themselves may be large and stay here.
--
-- KEYS[1] stream
-- ARGV[1] field   ARGV[2] newest id to look at ('+' = the last; '(ID' = before ID)   ARGV[3] rows to look at
-- Returns {rows seen, oldest id seen or '', value, count, value, count, ...}.

local counts, order, oldest = {}, {}, ''
local rows = redis.call('XREVRANGE', KEYS[1], ARGV[2], '-', 'COUNT', ARGV[3])
for _, row in ipairs(rows) do
  oldest = row[1]
  for i = 1, #row[2], 2 do
    if row[2][i] == ARGV[1] then
      local value = row[2][i + 1]
      if not counts[value] then
        counts[value] = 0
        order[#order + 1] = value
      end
      counts[value] = counts[value] + 1
    end
  end
end
local answer = {#rows, oldest}
for _, value in ipairs(order) do
  answer[#answer + 1] = value
  answer[#answer + 1] = counts[value]
end
return answer
