#!lua flags=allow-oom
-- Put a torn stage and partition back to where its retained log begins; its panes were discarded before.
--
-- KEYS[1] raw stream   KEYS[2] checkpoint hash   KEYS[3] hash of the last trim's cut   KEYS[4] hash of pane marks
-- KEYS[5] list of reloads of tables
-- KEYS[6..] what else goes: due panes, live sessions, late rows, dead letters, the journal of suspects
-- ARGV[1] consumer group   ARGV[2] greatest load time that a publication carries
-- ARGV[3] up to where the windows of the stage have expired in any partition, ARGV[4] windows that begin at or before it
-- have all expired; '' = none has. They would come back with what this partition knows of them.
-- Returns 1 when it was reset, 0 when it is not torn (any more) or has panes left.

-- The tables a group begins with: those of the cut, and of one that the log speaks of later only, the first content.
local function first_tables(list, cut_hash)
  local tables = {}
  for _, line in ipairs(redis.call('LRANGE', list, 0, -1)) do
    local content, name = string.match(line, '^%S+ (%S+) (.*)$')
    if name and not tables[name] then tables[name] = content end
  end
  local cut = redis.call('HGETALL', cut_hash)
  for i = 1, #cut, 2 do
    local name = string.match(cut[i], '^table:(.*)$')
    if name then tables[name] = cut[i + 1] end
  end
  return tables
end

local torn = redis.call('HMGET', KEYS[2], 'torn', 'load_ms', 'expired_ms')
if not torn[1] or redis.call('EXISTS', KEYS[4]) == 1 then return 0 end
local cut = redis.call('HMGET', KEYS[3], 'cursor', 'max_seen_ms', 'max_ts_ms')

local tables = first_tables(KEYS[5], KEYS[3])

redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], cut[1] or '0', 'MKSTREAM')
redis.call('UNLINK', KEYS[2], unpack(KEYS, 6))
-- Commits are numbered from 1 again, so the load time goes on: marks of the rebuilt panes must be ahead of the published ones.
redis.call('HSET', KEYS[2], 'load_ms', string.format('%.0f', math.max(tonumber(torn[2] or '0'), tonumber(ARGV[2])) + 1))
redis.call('HSET', KEYS[2], 'panes', '0', 'due', '0', 'sessions', '0')
-- what expired is gone from the other partitions as well, so old data must not open it again in this one
local expired = ARGV[3] ~= '' and ARGV[3] or torn[3]
if expired then redis.call('HSET', KEYS[2], 'expired_ms', expired) end
if cut[2] then redis.call('HSET', KEYS[2], 'cursor', cut[1], 'max_seen_ms', cut[2]) end
if cut[3] then redis.call('HSET', KEYS[2], 'max_ts_ms', cut[3], 'floor_ms', cut[3]) end
if ARGV[4] ~= '' and (not cut[3] or tonumber(cut[3]) < tonumber(ARGV[4])) then redis.call('HSET', KEYS[2], 'floor_ms', ARGV[4]) end
for name, content in pairs(tables) do redis.call('HSET', KEYS[2], 'table:' .. name, content) end
return 1
