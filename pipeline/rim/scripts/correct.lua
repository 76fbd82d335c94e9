#!lua flags=allow-oom
-- Bring the door up to date with entries it did not see: rows that a Redis client wrote by plain XADD.
--
-- KEYS[1] door hash
-- ARGV[1] the door's last_id the caller started from ('0-0' = none)    ARGV[2] the last entry the caller has read
-- ARGV[3] max_seen_ms   ARGV[4] max_ts_ms   ARGV[5] last_arrival_ms   ARGV[6] last_backfill_ms of the entries up to it, ''
-- where there is none
-- Returns 1, or 0 when the door moved meanwhile and nothing was written.

local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'none' and kind ~= 'hash' then error('correct.lua: ' .. KEYS[1] .. ' is a ' .. kind) end
if (redis.call('HGET', KEYS[1], 'last_id') or '0-0') ~= ARGV[1] then return 0 end
local names = {'max_seen_ms', 'max_ts_ms', 'last_arrival_ms', 'last_backfill_ms'}
for i, name in ipairs(names) do
  local text = ARGV[2 + i]
  if text ~= '' and not string.match(text, '^%-?%d+$') then error('correct.lua: ' .. name .. ' is ' .. text) end
end
redis.call('HSET', KEYS[1], 'last_id', ARGV[2])
for i, name in ipairs(names) do
  local text = ARGV[2 + i]
  local stored = redis.call('HGET', KEYS[1], name)
  if text ~= '' and not (stored and tonumber(stored) >= tonumber(text)) then redis.call('HSET', KEYS[1], name, text) end
end
return 1
