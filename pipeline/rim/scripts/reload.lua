#!lua
-- Append a control entry to one stream partition: from here on a lookup table has another content. Nothing is written
-- where the last entry that speaks of the table says so already, so any number of processes may call it at any time.
--
-- KEYS[1] raw stream   KEYS[2] door hash   KEYS[3] list of reloads in the log   KEYS[4] hash of the last trim's cut
-- ARGV[1] table        ARGV[2] hash of its content, which is stored already
-- List: `ID HASH TABLE` in the order of the log; those a trim has passed are in the cut, as `table:TABLE`.
-- Returns the id of the entry, or '' when the partition knows.

local name, content = ARGV[1], ARGV[2]
if name == '' or not string.match(content, '^%x+$') then error('reload.lua: not a table and its hash: ' .. name .. ' ' .. content) end
local wanted = {'stream', 'hash', 'list', 'hash'}
for i = 1, 4 do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'none' and kind ~= wanted[i] then error('reload.lua: ' .. KEYS[i] .. ' is a ' .. kind) end
end
local known = redis.call('HGET', KEYS[4], 'table:' .. name)
for _, line in ipairs(redis.call('LRANGE', KEYS[3], 0, -1)) do
  local _, its_content, its_name = string.match(line, '^(%S+) (%S+) (.*)$')
  if its_name == name then known = its_content end
end
if known == content then return '' end
-- The door follows where it was at the end of the log; else the scheduler brings it up to date, as for rows by XADD.
local last_id = redis.call('HGET', KEYS[2], 'last_id') or '0-0'
local current = #redis.call('XRANGE', KEYS[1], '(' .. last_id, '+', 'COUNT', 1) == 0

local id = redis.call('XADD', KEYS[1], '*', '_k', 'control', 'kind', 'table', 'table', name, 'hash', content)
redis.call('RPUSH', KEYS[3], id .. ' ' .. content .. ' ' .. name)
if current then redis.call('HSET', KEYS[2], 'last_id', id) end
return id
