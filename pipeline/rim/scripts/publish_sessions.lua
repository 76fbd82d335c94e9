#!lua flags=allow-oom
-- Publish some closed sessions of one partition, and retract the earlier forms of them that were published (DESIGN 8.5).
-- Parse every argument, then read and check, then write. Repeating a call writes nothing and sends no second row.
--
-- KEYS[1] hash partition -> greatest published mark   KEYS[2] hash partition -> account   KEYS[3] zset of buckets by end
-- KEYS[4] zset of buckets by published_ms   KEYS[5] downstream stream   KEYS[6] latest hash   KEYS[7] versions hash
-- KEYS[8 .. 7+B] hashes of published sessions, one a bucket
-- ARGV[1] version   ARGV[2] partition   ARGV[3] mark of the commit the caller's sessions are as of: 'load_ms-commit'
-- ARGV[4] the account after this call ('' = not yet)   ARGV[5] rows | chunks | none: what goes downstream
-- ARGV[6] B   ARGV[7] n: sessions   ARGV[8] m: plain sessions, without earlier forms and with nothing that goes downstream
-- then B bucket starts, then n x
--   ('BUCKET FIRST LAST CLOSES_AT g v f', cell, group JSON, latest JSON,
--    g x group field/value pairs, v x field/value pairs, f x forebear 'BUCKET FIRST LAST CLOSES_AT'), BUCKET being 1..B
-- then, unless m is 0, B x 'COUNT CLOSES_AT' (plain sessions of the bucket, and the greatest end), m fields
-- ('FIRST:LAST GROUPJSON') and m cells in order of the buckets, and m groups and m latest JSON in order of their ends
-- One argument for many numbers: an argument costs the server more than its bytes. For chunks a pair is '' and members of a JSON object: the rows of a call are one entry of NDJSON.
-- Returns how many sessions were published or retracted, or -1 when sessions of a newer commit have been published.

local at = 8
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
local n_buckets, n_rows, n_plain = count(ARGV[6]), count(ARGV[7]), count(ARGV[8])
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
local plain_fields, plain_cells, plain_groups, plain_latest
if n_plain > 0 then
  local n = 0
  for _, bucket in ipairs(buckets) do
    local members, ends = string.match(take() or '', '^(%d+) (%-?%d+)$')
    bucket.n, bucket.plain_ends = count(members), ends
    n = n + bucket.n
  end
  if n ~= n_plain then error('publish_sessions.lua: ' .. n_plain .. ' plain sessions, ' .. n .. ' in buckets') end
  plain_fields, plain_cells, plain_groups, plain_latest = at, at + n, at + 2 * n, at + 3 * n
  at = at + 4 * n
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
-- the same of arguments side by side: (place among them, value), without those that are not there
local function read_plain(key, from, n)
  local known = {}
  for first = 1, n, 4000 do
    local last = math.min(first + 3999, n)
    for i, value in ipairs(redis.call('HMGET', key, unpack(ARGV, from + first, from + last))) do
      if value then known[first + i - 1] = value end
    end
  end
  return known
end
local plain_at = 0
for _, bucket in ipairs(n_plain > 0 and buckets or none) do
  bucket.plain_at, bucket.plain = plain_at, read_plain(bucket.key, plain_fields + plain_at, bucket.n)
  plain_at = plain_at + bucket.n
end
local plain_known = active and n_plain > 0 and read_plain(KEYS[6], plain_groups, n_plain) or none

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
local function parts_of(value)
  return string.match(value or '', '^(%a+) (%d+) %d+ %d+ (.*)$')
end
local function stored(row)
  return parts_of(row.bucket.known[row.field])
end
local function is_newest(newest, closes_at)
  local ends = newest and string.match(newest, '^{"window_start":%-?%d+,"window_end":(%-?%d+)')
  return not ends or tonumber(ends) <= tonumber(closes_at)
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
  if active and is_newest(latest[row.group], row.closes_at) then
    latest[row.group] = row.latest
    newer[#newer + 1], newer[#newer + 2] = row.group, row.latest
  end
end
if n_plain > 0 then
  local new, rest = 'closed 0 ' .. now_ms .. ' ' .. ARGV[2] .. ' ', ' ' .. now_ms .. ' ' .. ARGV[2] .. ' '
  for _, bucket in ipairs(buckets) do
    local sets, before = bucket.sets, changed
    for i = 1, bucket.n do
      local place, value = bucket.plain_at + i, nil
      local cell = ARGV[plain_cells + place]
      if not bucket.plain[i] then
        value = new .. cell
      else
        local state, revision, known = parts_of(bucket.plain[i])
        if state ~= 'closed' or known ~= cell then
          value = 'closed ' .. string.format('%.0f', tonumber(revision) + 1) .. rest .. cell
        end
      end
      if value then
        sets[#sets + 1], sets[#sets + 2] = ARGV[plain_fields + place], value
        changed = changed + 1
      end
    end
    if changed > before and (not bucket.ends or tonumber(bucket.plain_ends) > tonumber(bucket.ends)) then
      bucket.ends = bucket.plain_ends
    end
  end
  for i = 1, active and n_plain or 0 do
    local group, text = ARGV[plain_groups + i], ARGV[plain_latest + i]
    local newest = latest[group] or plain_known[i]
    if not newest or is_newest(newest, string.match(text, '^{"window_start":%-?%d+,"window_end":(%-?%d+)')) then
      newer[#newer + 1], newer[#newer + 2] = group, text
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
