#!lua flags=allow-oom
-- Append some rows of the oldest published window to the metric's downstream stream, exactly once whoever calls.
-- The head of the list says how many of the window's rows are out: 'start:end:revision:rows'.
--
-- KEYS[1] list of windows whose rows still go downstream     KEYS[2] downstream stream
-- ARGV[1] the head of the list as the caller saw it          ARGV[2] the head after this step, '' when the window is done
-- ARGV[3] n: rows   then n x (m, m x field/value pairs)
-- Returns 1 when the rows were appended, 0 when another caller was faster.

local rows, at = {}, 3
for i = 1, tonumber(ARGV[3]) do
  local n = tonumber(ARGV[at + 1])
  rows[i] = {at + 2, at + 1 + 2 * n}
  at = at + 1 + 2 * n
end
if at ~= #ARGV then error('emit.lua: ' .. #ARGV .. ' arguments, ' .. at .. ' understood') end
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'none' and kind ~= 'stream' then error('emit.lua: ' .. KEYS[2] .. ' is a ' .. kind) end
if redis.call('LINDEX', KEYS[1], 0) ~= ARGV[1] then return 0 end

for _, row in ipairs(rows) do
  redis.call('XADD', KEYS[2], '*', unpack(ARGV, row[1], row[2]))
end
if ARGV[2] == '' then
  redis.call('LPOP', KEYS[1])
else
  redis.call('LSET', KEYS[1], 0, ARGV[2])
end
return 1
