#!lua flags=allow-oom
-- Append a tick, if nothing came after the entry the caller saw: time that silence moves must not overtake an event.
-- At maxmemory it still runs: closing windows is what lets results expire.
--
-- KEYS[1] raw stream    KEYS[2] door hash
-- ARGV[1] last entry the caller saw, as the door has it ('0-0' = none)   ARGV[2] time of the tick, event time ms
-- ARGV[3] by: silence, heartbeat, end or follow (core/entries)
-- Door: last_id, max_seen_ms and last_tick_ms move on. last_arrival_ms and max_ts_ms do not: a tick is not an event.
-- Returns the id of the tick, or '' when another entry came first.

local t = tonumber(ARGV[2])
if not string.match(ARGV[2], '^%-?%d+$') or t ~= t then error('tick.lua: not a time: ' .. ARGV[2]) end
if not ({silence = 1, heartbeat = 1, ['end'] = 1, follow = 1})[ARGV[3]] then error('tick.lua: not a cause: ' .. tostring(ARGV[3])) end
local wanted = {'stream', 'hash'}
for i = 1, 2 do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'none' and kind ~= wanted[i] then error('tick.lua: ' .. KEYS[i] .. ' is a ' .. kind) end
end
local door = redis.call('HMGET', KEYS[2], 'last_id', 'max_seen_ms')
-- The door's id too, not only the stream's end: after a rollback of Redis the caller's picture is from a log that is gone.
if (door[1] or '0-0') ~= ARGV[1] then return '' end
if #redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', 1) > 0 then return '' end

local id = redis.call('XADD', KEYS[1], '*', '_k', 'tick', 't', ARGV[2], 'by', ARGV[3])
local arrival = string.match(id, '^(%d+)')
local seen = t < tonumber(arrival) and ARGV[2] or arrival
if door[2] and tonumber(door[2]) > tonumber(seen) then seen = door[2] end
redis.call('HSET', KEYS[2], 'last_id', id, 'max_seen_ms', seen, 'last_tick_ms', arrival)
return id
