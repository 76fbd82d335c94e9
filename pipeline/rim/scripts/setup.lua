#!lua flags=allow-oom
-- Create a stage's consumer group on one partition, with the state it starts from, where there is none; and find out
-- whether one that was there has lost its group or its checkpoint.
-- After a trim a new group starts at the cut: with its watermark, and leaving alone the windows that lost events to it.
--
--   group | checkpoint | else         |
--   ------+------------+--------------+----------------------------------------------------------------------------
--   there | there      |              | 0, or 2: it missed entries that were trimmed while no config ran it
--   gone  | there      |              | 3: made again at the checkpoint's cursor, up to which the log is counted
--   there | gone       |              | 4: what was counted is not known any more
--   gone  | gone       | state is left| 4: likewise
--   gone  | gone       | nothing      | 1: a stage that is new here
--
-- KEYS[1] raw stream   KEYS[2] checkpoint hash   KEYS[3] hash of the last trim's cut   KEYS[4] list of reloads of tables
-- KEYS[5..] the other keys of the state: pane marks, due panes, live sessions, late rows, dead letters
-- ARGV[1] consumer group
-- Returns the number above: after 2 and 4 it is marked torn, and the worker rebuilds it from what is left of the log.

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
local begin = cut[1] or '0-0'
-- 'panes' is written when a group is made and by every commit, 'commit' by those of versions before that one
local known = redis.call('HMGET', KEYS[2], 'cursor', 'panes', 'commit', 'torn')
local cursor, has_checkpoint = known[1], known[2] or known[3] or known[4]
local delivered
if redis.call('EXISTS', KEYS[1]) == 1 then
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local named = {}
    for i = 1, #group, 2 do named[group[i]] = group[i + 1] end
    if named['name'] == ARGV[1] then delivered = named['last-delivered-id'] end
  end
end
local state = 0
for i = 5, #KEYS do state = state + redis.call('EXISTS', KEYS[i]) end

if has_checkpoint then
  local trimmed = cut[1] and before(cursor, cut[1])
  if not delivered then redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], cursor or begin, 'MKSTREAM') end
  if trimmed then redis.call('HSET', KEYS[2], 'torn', 'entries it had not read were trimmed') end
  return trimmed and 2 or delivered and 0 or 3
end
if state > 0 or (delivered and before(begin, delivered)) then
  if not delivered then redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], begin, 'MKSTREAM') end
  redis.call('HSET', KEYS[2], 'torn', 'its checkpoint was lost')
  return 4
end

local tables = first_tables(KEYS[4], KEYS[3])
-- a trim removes entries in steps after it wrote its cut: some at or before it may still stand
if not delivered then redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], begin, 'MKSTREAM') end
redis.call('HSET', KEYS[2], 'panes', '0', 'due', '0', 'sessions', '0')
if cut[2] then redis.call('HSET', KEYS[2], 'cursor', cut[1], 'max_seen_ms', cut[2]) end
if cut[3] then redis.call('HSET', KEYS[2], 'max_ts_ms', cut[3], 'floor_ms', cut[3]) end
for name, content in pairs(tables) do redis.call('HSET', KEYS[2], 'table:' .. name, content) end
return delivered and 0 or 1
