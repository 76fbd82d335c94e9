#!lua flags=allow-oom
-- Create a stage's consumer group on one partition, with the state it starts from, where there is none.
-- After a trim a new group starts at the cut: with its watermark, and leaving alone the windows that lost events to it.
--
-- KEYS[1] raw stream   KEYS[2] checkpoint hash   KEYS[3] hash of the last trim's cut   KEYS[4] list of reloads of tables
-- ARGV[1] consumer group
-- Returns 1 when the group was made now, 0 when it was there, 2 when it was there and missed entries that were trimmed while
-- no config ran it: it is marked torn, and the worker rebuilds it from what is left of the log.

local function before(a, b)
  local a_ms, a_seq = string.match(a or '', '^(%d+)%-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)%-(%d+)$')
  if not a_ms then return true end
  if a_ms ~= b_ms then return tonumber(a_ms) < tonumber(b_ms) end
  return tonumber(a_seq) < tonumber(b_seq)
end
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

local cut = redis.call('HMGET', KEYS[3], 'cursor', 'max_seen_ms', 'max_ts_ms')
local cursor = redis.call('HGET', KEYS[2], 'cursor')
if redis.call('EXISTS', KEYS[1]) == 1 then
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    for i = 1, #group, 2 do
      if group[i] == 'name' and group[i + 1] == ARGV[1] then
        if not cut[1] or not before(cursor, cut[1]) then return 0 end
        redis.call('HSET', KEYS[2], 'torn', '1')
        return 2
      end
    end
  end
end
if redis.call('EXISTS', KEYS[2]) == 1 then return redis.error_reply('SETUP the checkpoint is there and its group is not') end

local tables = first_tables(KEYS[4], KEYS[3])
-- a trim removes entries in steps after it wrote its cut: some at or before it may still stand
redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], cut[1] or '0', 'MKSTREAM')
if cut[2] then redis.call('HSET', KEYS[2], 'cursor', cut[1], 'max_seen_ms', cut[2]) end
if cut[3] then redis.call('HSET', KEYS[2], 'max_ts_ms', cut[3], 'floor_ms', cut[3]) end
for name, content in pairs(tables) do redis.call('HSET', KEYS[2], 'table:' .. name, content) end
return 1
