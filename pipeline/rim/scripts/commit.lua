#!lua flags=allow-oom
-- The fenced commit of one stage and partition: absolute values, all or nothing (DESIGN section 8).
-- Parse every argument, then read and check, then write; after the first write nothing can fail.
--
-- KEYS[1] raw stream            KEYS[2] checkpoint hash     KEYS[3] hash of pane marks   KEYS[4] hash of due panes
-- KEYS[5] suspect hash          KEYS[6 .. 5+S] streams appended to (late, dead, published rows)
-- KEYS[6+S .. 5+S+P] one pane hash for each pane          KEYS[6+S+P ..] H other hashes (live sessions)
-- ARGV[1] consumer group        ARGV[2] consumer            ARGV[3] cursor this worker started from ('' = none)
-- ARGV[4] commit number it started from                     ARGV[5] max_seen_ms it started from ('' = none)
-- ARGV[6] entries pending for this consumer                 ARGV[7] id of the first of them
-- ARGV[8] expired_ms that backfilled rows were judged by ('none', or '' where there are no such rows)
-- ARGV[9] a: entries to acknowledge  ARGV[10] c: checkpoint values  ARGV[11] S: streams  ARGV[12] r: runs of rows
-- ARGV[13] P: panes  ARGV[14] H: hashes
-- then a ids; c field/value pairs; r x (stream 1..S, n, n names of fields, m, m x n values: m rows to append);
-- P x (start, mark, from_end, n, d, n x field/value pairs to set, d fields to delete);
-- H x (n, d, n x field/value pairs to set, d fields to delete)
-- A due pane is 'MARK FROM_END': the windows that end at FROM_END or later are to be published ('-' = all of its windows).
-- The checkpoint counts what its other keys hold ('panes', 'due', 'sessions'): a key that something else deleted is not
-- filled again with a part of what was in it, but marks the stage torn here.
-- Returns 'ok', or why nothing was written: 'torn', 'checkpoint', 'pending', 'expired', 'lost <key>', 'group' or 'type <key>'.

local at = 14
local function take()
  at = at + 1
  return ARGV[at]
end
local function count(text)
  local n = tonumber(text)
  if not n or n < 0 or n ~= math.floor(n) then error('commit.lua: not a count: ' .. tostring(text)) end
  return n
end

-- parse
local n_ack, n_values, n_streams, n_runs = count(ARGV[9]), count(ARGV[10]), count(ARGV[11]), count(ARGV[12])
local n_panes, n_hashes = count(ARGV[13]), count(ARGV[14])
if #KEYS ~= 5 + n_streams + n_panes + n_hashes then error('commit.lua: keys do not match their counts') end
local ids = {}
for i = 1, n_ack do
  ids[i] = take()
  if not string.match(ids[i], '^%d+%-%d+$') then error('commit.lua: not an entry id: ' .. tostring(ids[i])) end
end
local values_from = at + 1
at = at + 2 * n_values
local runs = {}
for i = 1, n_runs do
  local stream, n = count(take()), count(take())
  if stream < 1 or stream > n_streams or n < 1 then error('commit.lua: bad rows') end
  local fields = {}
  for j = 1, n do fields[2 * j - 1] = take() end
  local m = count(take())
  runs[i] = {key = KEYS[5 + stream], n = n, m = m, from = at, fields = fields}
  at = at + m * n
end
local panes = {}
for i = 1, n_panes do
  local start, mark, from_end, n, d = take(), take(), take(), count(take()), count(take())
  if from_end ~= '-' and not string.match(from_end, '^%-?%d+$') then error('commit.lua: not a from_end: ' .. from_end) end
  panes[i] = {KEYS[5 + n_streams + i], start, mark, from_end, set = {at + 1, at + 2 * n}, gone = {at + 2 * n + 1, at + 2 * n + d}}
  at = at + 2 * n + d
end
local hashes = {}
for i = 1, n_hashes do
  local n, d = count(take()), count(take())
  local key = KEYS[5 + n_streams + n_panes + i]
  hashes[i] = {key, set = {at + 1, at + 2 * n}, gone = {at + 2 * n + 1, at + 2 * n + d}}
  at = at + 2 * n + d
end
if at ~= #ARGV then error('commit.lua: ' .. #ARGV .. ' arguments, ' .. at .. ' understood') end

-- check
local kinds = {'stream', 'hash', 'hash', 'hash', 'hash'}
for i = 1, #KEYS do
  local wanted = kinds[i] or (i <= 5 + n_streams and 'stream' or 'hash')
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'none' and kind ~= wanted then return 'type ' .. KEYS[i] end
end
local checkpoint = redis.call('HMGET', KEYS[2], 'torn', 'cursor', 'commit', 'max_seen_ms', 'expired_ms', 'panes', 'due', 'sessions')
if checkpoint[1] then return 'torn' end
if (checkpoint[2] or '') ~= ARGV[3] or (checkpoint[3] or '0') ~= ARGV[4] or (checkpoint[4] or '') ~= ARGV[5] then
  return 'checkpoint'
end
if ARGV[8] ~= '' and (checkpoint[5] or 'none') ~= ARGV[8] then return 'expired' end
local counted = {[6] = KEYS[3], [7] = KEYS[4], [8] = n_hashes > 0 and KEYS[6 + n_streams + n_panes] or nil}
local lost
for position, key in pairs(counted) do
  if redis.call('HLEN', key) < (tonumber(checkpoint[position]) or 0) then lost = key end
end
for _, pane in ipairs(panes) do
  if redis.call('HEXISTS', KEYS[3], pane[2]) ~= redis.call('EXISTS', pane[1]) then lost = pane[1] end
end
if lost then
  redis.call('HSET', KEYS[2], 'torn', lost .. ' is not what was committed')
  return 'lost ' .. lost
end
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1])
if pending.err then return 'group' end
local mine = 0
for _, consumer in ipairs(pending[4] or {}) do
  if consumer[1] == ARGV[2] then mine = tonumber(consumer[2]) end
end
if mine ~= tonumber(ARGV[6]) or pending[2] ~= ARGV[7] then return 'pending' end
for _, pane in ipairs(panes) do
  local due = string.match(redis.call('HGET', KEYS[4], pane[2]) or '', ' (%S+)$')
  if due == '-' or (due and pane[4] ~= '-' and tonumber(due) < tonumber(pane[4])) then pane[4] = due end
end

-- write
local function in_steps(from, to, call)
  for first = from, to, 4000 do
    call(first, math.min(first + 3999, to))
  end
end
local function change(hash)
  in_steps(hash.set[1], hash.set[2], function(first, last) redis.call('HSET', hash[1], unpack(ARGV, first, last)) end)
  in_steps(hash.gone[1], hash.gone[2], function(first, last) redis.call('HDEL', hash[1], unpack(ARGV, first, last)) end)
end
redis.call('HSET', KEYS[2], 'torn', 'a commit was cut off')
for _, pane in ipairs(panes) do
  redis.call('HSET', KEYS[3], pane[2], pane[3])
  redis.call('HSET', KEYS[4], pane[2], pane[3] .. ' ' .. pane[4])
  change(pane)
end
for _, hash in ipairs(hashes) do change(hash) end
for _, run in ipairs(runs) do
  local fields, from = run.fields, run.from
  for _ = 1, run.m do
    for j = 1, run.n do fields[2 * j] = ARGV[from + j] end
    from = from + run.n
    redis.call('XADD', run.key, '*', unpack(fields, 1, 2 * run.n))
  end
end
in_steps(1, n_ack, function(first, last) redis.call('XACK', KEYS[1], ARGV[1], unpack(ids, first, last)) end)
redis.call('DEL', KEYS[5])
redis.call('HSET', KEYS[2], unpack(ARGV, values_from, values_from + 2 * n_values - 1))
redis.call('HSET', KEYS[2], 'panes', redis.call('HLEN', KEYS[3]), 'due', redis.call('HLEN', KEYS[4]))
if n_hashes > 0 then redis.call('HSET', KEYS[2], 'sessions', redis.call('HLEN', KEYS[6 + n_streams + n_panes])) end
redis.call('HDEL', KEYS[2], 'torn')
return 'ok'
