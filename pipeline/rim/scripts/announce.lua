#!lua flags=allow-oom
-- Say that a window is about to expire, before anything of it is deleted: from here on no old data is added to what ends at
-- or before it, because the commit compares what was announced with what its backfilled rows were judged by.
--
-- KEYS[1] checkpoint hash   KEYS[2] hash of due panes: pane start -> 'MARK FROM_END'
-- ARGV[1] start ms of the window    ARGV[2] end ms of the last window that is closed for old data with it
-- Returns 1, or 0 when a pane in between is still to be published and nothing was written.

local from, to = tonumber(ARGV[1]), tonumber(ARGV[2])
if not from or not to or to <= from then error('announce.lua: not a window: ' .. ARGV[1] .. ' ' .. ARGV[2]) end
local due = redis.call('HGETALL', KEYS[2])
for i = 1, #due, 2 do
  local start, first = tonumber(due[i]), string.match(due[i + 1], ' (%S+)$')
  if start >= from and start < to and (first == '-' or first == nil or tonumber(first) <= to) then return 0 end
end
local known = redis.call('HGET', KEYS[1], 'expired_ms')
-- a group that is gone keeps no checkpoint: one of nothing but this number would look like a group that lost its place
if redis.call('EXISTS', KEYS[1]) == 0 then return 1 end
if not known or tonumber(known) < to then redis.call('HSET', KEYS[1], 'expired_ms', ARGV[2]) end
return 1
