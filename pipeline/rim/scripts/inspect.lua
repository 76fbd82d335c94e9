#!lua flags=allow-oom
-- Look whether the state of a stage and partition still is what its commits left, and mark it torn where a key is gone.
--
-- KEYS[1] checkpoint hash   KEYS[2] hash of pane marks   KEYS[3] hash of due panes   KEYS[4] hash of live sessions
-- KEYS[5..] pane hashes
-- ARGV[1..] start ms of each of these panes
-- The checkpoint counts the fields of the three hashes; a pane has a mark as long as its hash is there, and only then.
-- Returns '' when nothing is missing, or what is: the worker rebuilds the partition from the log.

local known = redis.call('HMGET', KEYS[1], 'torn', 'panes', 'due', 'sessions', 'commit')
if known[1] then return known[1] end
if not known[2] and not known[5] then return KEYS[1] .. ' is gone' end
local lost = ''
for i = 2, 4 do
  local fields = redis.call('HLEN', KEYS[i])
  if fields < (tonumber(known[i]) or 0) then lost = KEYS[i] .. ' has ' .. fields .. ' fields of ' .. known[i] end
end
for i = 1, #ARGV do
  local marked, there = redis.call('HEXISTS', KEYS[2], ARGV[i]), redis.call('EXISTS', KEYS[4 + i])
  if marked > there then lost = KEYS[4 + i] .. ' is gone' end
  if marked < there then lost = KEYS[4 + i] .. ' has no mark' end
end
if lost ~= '' then redis.call('HSET', KEYS[1], 'torn', lost) end
return lost
