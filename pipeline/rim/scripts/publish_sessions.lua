#!lua flags=allow-oom
-- Publish some closed sessions of one partition, and retract the earlier forms of them that were published (DESIGN 8.5).
-- Parse every argument, then read and check, then write. Repeating a call writes nothing and sends no second row.
--
-- KEYS[1] hash partition -> greatest published mark   KEYS[2] hash partition -> account   KEYS[3] zset of buckets by end
-- KEYS[4] zset of buckets by published_ms   KEYS[5] downstream stream   KEYS[6] latest hash   KEYS[7] versions hash
-- KEYS[8 .. 7+B] hashes of published sessions, one a bucket
-- ARGV[1] version   ARGV[2] partition   ARGV[3] mark of the commit the caller's sessions are as of: 'load_ms-commit'
-- ARGV[4] the account after this call ('' = not yet)   ARGV[5] rows | chunks | none: what goes downstream
-- ARGV[6] B   ARGV[7] n: sessions   then B bucket starts, then n x
--   ('BUCKET FIRST LAST CLOSES_AT g v f', cell, group JSON, latest JSON,
--    g x group field/value pairs, v x field/value pairs, f x forebear 'BUCKET FIRST LAST CLOSES_AT'), BUCKET being 1..B
-- One argument for many numbers: an argument costs the server more than its bytes. For chunks a pair is '' and members of a JSON object: the rows of a call are one entry of NDJSON.
-- Returns how many sessions were published or retracted, or -1 when sessions of a newer commit have been published.

local at = 7
local function take()
  at = at + 1
  return ARGV[at]
end
local function count(text)
  local n = tonumber(text)
  if not n or n < 0 or n ~= math.floor(n) then error('publish_sessions.lua: not a count: ' .. tostring(text)) end
  return n
end
local function time(text)
  if not string.match(text or '', '^%-?%d+$') then error('publish_sessions.lua: not a time: ' .. tostring(text)) end
  return text
end
local function order(mark)
  local load, commit = string.match(mark or '0-0', '^(%d+)%-(%d+)$')
  if not load then error('publish_sessions.lua: not a mark: ' .. mark) end
  return tonumber(load), tonumber(commit)
end
local none = {}
local function pairs_of(n)
  if n == 0 then return none end
  local found = {}
  for i = 1, 2 * n do found[i] = take() end
  return found
end

-- parse
local mark_load, mark_commit = order(ARGV[3])
local n_buckets, n_rows = count(ARGV[6]), count(ARGV[7])
if #KEYS ~= 7 + n_buckets then error('publish_sessions.lua: keys do not match their count') end
local buckets = {}
for i = 1, n_buckets do buckets[i] = {key = KEYS[7 + i], start = time(take()), fields = {}, sets = {}} end
local SPAN = '(%d+) (%-?%d+) (%-?%d+) (%-?%d+)'
local function form(group, number, first, last, closes_at)
  local bucket = buckets[tonumber(number)]
  if not bucket then error('publish_sessions.lua: bad session or bucket') end
  local field = first .. ':' .. last .. ' ' .. group
  bucket.fields[#bucket.fields + 1] = field
  return {bucket = bucket, field = field, first = first, last = last, closes_at = closes_at, forebears = none}
end
local rows, groups = {}, {}
for i = 1, n_rows do
  local number, first, last, closes_at, g, v, f = string.match(take() or '', '^' .. SPAN .. ' (%d+) (%d+) (%d+)$')
  local cell, group, latest = take(), take(), take()
  local row = form(group, number, first, last, closes_at)
  row.cell, row.group, row.latest = cell, group, latest
  row.groups, row.values = pairs_of(tonumber(g)), pairs_of(tonumber(v))
  if f ~= '0' then
    row.forebears = {}
    for j = 1, tonumber(f) do row.forebears[j] = form(group, string.match(take() or '', '^' .. SPAN .. '$')) end
  end
  rows[i], groups[i] = row, group
end
if at ~= #ARGV then error('publish_sessions.lua: ' .. #ARGV .. ' arguments, ' .. at .. ' understood') end

-- check
local wanted = {'hash', 'hash', 'zset', 'zset', 'stream', 'hash', 'hash'}
for i = 1, #KEYS do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'none' and kind ~= (wanted[i] or 'hash') then
    return redis.error_reply('WRONGTYPE publish_sessions.lua: ' .. KEYS[i] .. ' is a ' .. kind)
  end
end
local stored_load, stored_commit = order(redis.call('HGET', KEYS[1], ARGV[2]) or '0-0')
if stored_load > mark_load or (stored_load == mark_load and stored_commit > mark_commit) then return -1 end
local active = redis.call('HGET', KEYS[7], 'active') == ARGV[1]
-- one command reads what many rows ask for, one writes what many rows say: a call costs more than a field
local function read(key, fields)
  local known = {}
  for first = 1, #fields, 4000 do
    local last = math.min(first + 3999, #fields)
    for i, value in ipairs(redis.call('HMGET', key, unpack(fields, first, last))) do known[fields[first + i - 1]] = value end
  end
  return known
end
for _, bucket in ipairs(buckets) do bucket.known = read(bucket.key, bucket.fields) end
local latest = active and read(KEYS[6], groups) or {}

-- write
local function set(key, pairs)
  for first = 1, #pairs, 4000 do
    redis.call('HSET', key, unpack(pairs, first, math.min(first + 3999, #pairs)))
  end
end
local clock = redis.call('TIME')
local now_ms = string.format('%.0f', tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000))
local lines = {}
local function members(row, state, revision, more)
  local parts = {'"window_start":' .. row.first, '"window_end":' .. row.closes_at, '"state":"' .. state .. '"',
    '"revision":' .. revision, '"first":' .. row.first, '"last":' .. row.last, '"closes_at":' .. row.closes_at}
  for _, pairs in ipairs(more) do
    if pairs[2] and pairs[2] ~= '' then parts[#parts + 1] = pairs[2] end
  end
  return '{' .. table.concat(parts, ',') .. '}'
end
local function put(row, state, revision, cell, more)
  local bucket, value = row.bucket, table.concat({state, revision, now_ms, ARGV[2], cell}, ' ')
  local sets = bucket.sets
  sets[#sets + 1], sets[#sets + 2] = row.field, value
  bucket.known[row.field] = value
  if not bucket.ends or tonumber(row.closes_at) > tonumber(bucket.ends) then bucket.ends = row.closes_at end
  if ARGV[5] == 'chunks' then
    lines[#lines + 1] = members(row, state, revision, more)
  elseif ARGV[5] == 'rows' then
    local sent = {'window_start', row.first, 'window_end', row.closes_at, 'state', state, 'revision', revision,
      'version', ARGV[1], 'first', row.first, 'last', row.last, 'closes_at', row.closes_at}
    for _, pairs in ipairs(more) do
      for _, part in ipairs(pairs) do sent[#sent + 1] = part end
    end
    redis.call('XADD', KEYS[5], '*', unpack(sent))
  end
end
local function stored(row)
  return string.match(row.bucket.known[row.field] or '', '^(%a+) (%d+) %d+ %d+ (.*)$')
end

local changed, newer = 0, {}
for _, row in ipairs(rows) do
  for _, before in ipairs(row.forebears) do
    local state, revision, cell = stored(before)
    if state == 'closed' then
      put(before, 'retracted', string.format('%.0f', tonumber(revision) + 1), cell, {row.groups})
      changed = changed + 1
    end
  end
  local state, revision, cell = stored(row)
  if state ~= 'closed' or cell ~= row.cell then
    put(row, 'closed', state and string.format('%.0f', tonumber(revision) + 1) or '0', row.cell, {row.groups, row.values})
    changed = changed + 1
  end
  if active then
    local newest = latest[row.group]
    local ends = newest and string.match(newest, '^{"window_start":%-?%d+,"window_end":(%-?%d+)')
    if not ends or tonumber(ends) <= tonumber(row.closes_at) then
      latest[row.group] = row.latest
      newer[#newer + 1], newer[#newer + 2] = row.group, row.latest
    end
  end
end
for _, bucket in ipairs(buckets) do
  set(bucket.key, bucket.sets)
  if bucket.ends then
    redis.call('ZADD', KEYS[3], 'GT', bucket.ends, bucket.start)
    redis.call('ZADD', KEYS[4], now_ms, bucket.start)
  end
end
set(KEYS[6], newer)
if #lines > 0 then
  redis.call('XADD', KEYS[5], '*', 'version', ARGV[1], 'n', #lines, 'rows', table.concat(lines, '\n'))
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
if ARGV[4] ~= '' then redis.call('HSET', KEYS[2], ARGV[2], ARGV[4]) end
return changed
