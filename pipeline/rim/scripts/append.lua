#!lua
-- Append one step of a batch to one stream partition, exactly once where it has an idempotency key (DESIGN sections 6, 7).
-- Parse every argument, then read and check, then write; after the first write nothing can fail. Without allow-oom: a
-- server at maxmemory refuses the whole script before it begins.
--
-- KEYS[1] raw stream      KEYS[2] door hash     KEYS[3] hash of idempotency records
-- KEYS[4] zset of idempotency keys by arrival   KEYS[5] quarantine stream
-- KEYS[6] hash of the rows of a stage that were replayed, only where this step replays some: origin -> request
-- ARGV[1] idempotency key, '' = none            ARGV[2] fingerprint of the request
-- ARGV[3] clock the rows were judged by, ms     ARGV[4] rows of the request in this step that are good
-- ARGV[5] of them, rows with undeclared fields  ARGV[6] e: entries     ARGV[7] q: refused rows
-- then e x ('chunk', n, lo, hi, crc, mode, only, coding, body) or e x ('row', time, m, m x field/value pairs); no event
-- time: '' in lo, hi, time; mode 'backfill' or '', only the consumer group it is for or ''
-- then q x (reason, code, field, index, header, body), header '' where it is no CSV; then, with KEYS[6], request, again ('1' or ''), m, m x origin
-- Record: 'FINGERPRINT JUDGED_MS ARRIVAL_MS ID,ID'; kept 24 h or 100,000 a partition, removed in small steps.
-- Returns {'new', arrival_ms, id...}, {'known', record}, {'conflict'}, {'replayed'} (some origin was replayed before) or
-- {'type', key}; 'known' and 'new' count in the door: received = stored + duplicate + rejected after every call.

local KEEP_RECORDS, KEEP_MS, REMOVE_A_CALL = 100000, 24 * 3600 * 1000, 16
local MAX_PAIRS = 3000 -- unpack fails above some 8,000 values (FACTS 3)

local at = 7
local function take()
  at = at + 1
  return ARGV[at]
end
local function count(text)
  if not text or not string.match(text, '^%d+$') or #text > 15 then error('append.lua: not a count: ' .. tostring(text)) end
  return tonumber(text)
end
local function time(text)
  if text == '' then return nil end
  if not text or not string.match(text, '^%-?%d+$') or #text > 16 then error('append.lua: not a time: ' .. tostring(text)) end
  return tonumber(text)
end
local function whole(number) return string.format('%.0f', number) end

-- parse
local key, fingerprint, judged = ARGV[1], ARGV[2], whole(count(ARGV[3]))
local n_good, n_undeclared, n_entries, n_refused = count(ARGV[4]), count(ARGV[5]), count(ARGV[6]), count(ARGV[7])
if string.find(fingerprint, ' ', 1, true) then error('append.lua: not a fingerprint: ' .. fingerprint) end
local entries, n_events = {}, 0
for i = 1, n_entries do
  local kind = take()
  if kind == 'chunk' then
    local n, lo, hi, crc = count(take()), time(take()), time(take()), whole(count(take()))
    local mode, only, coding = take(), take(), take()
    if mode ~= '' and mode ~= 'backfill' then error('append.lua: not a mode: ' .. tostring(mode)) end
    if not string.match(coding or '', '^[a-z0-9+]+$') then error('append.lua: not a coding: ' .. tostring(coding)) end
    entries[i] = {kind = kind, n = n, lo = lo, hi = hi, crc = crc, mode = mode, only = only, coding = coding, body = take() or ''}
    entries[i].bytes = #entries[i].body
    n_events = n_events + n
  elseif kind == 'row' then
    local hi, m = time(take()), count(take())
    if m < 1 or m > MAX_PAIRS then error('append.lua: a row of ' .. m .. ' fields') end
    entries[i] = {kind = kind, n = 1, hi = hi, from = at + 1, to = at + 2 * m, bytes = 0}
    for value = at + 1, at + 2 * m do entries[i].bytes = entries[i].bytes + #(ARGV[value] or '') end
    at = at + 2 * m
    n_events = n_events + 1
  else
    error('append.lua: not an entry: ' .. tostring(kind))
  end
end
local refused_from = at
local refused_to = at + 6 * n_refused
at = refused_to
local request, again, origins = '', false, {}
if KEYS[6] then
  request, again = take(), take() == '1'
  for i = 1, count(take()) do origins[i] = take() or '' end
end
if at ~= #ARGV then error('append.lua: ' .. #ARGV .. ' arguments, ' .. at .. ' understood') end
if n_events ~= n_good then error('append.lua: ' .. n_events .. ' events, ' .. n_good .. ' announced') end

-- check
local wanted = {'stream', 'hash', 'hash', 'zset', 'stream', 'hash'}
for i = 1, #KEYS do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'none' and kind ~= wanted[i] then return {'type', KEYS[i]} end
end
local NAMES = {'received', 'stored', 'duplicate', 'rejected', 'undeclared', 'bytes', 'max_seen_ms', 'max_ts_ms', 'last_arrival_ms',
  'last_backfill_ms'}
local door = {}
for i, text in ipairs(redis.call('HMGET', KEYS[2], unpack(NAMES))) do
  if text and not string.match(text, '^%-?%d+$') then error('append.lua: ' .. KEYS[2] .. ' ' .. NAMES[i] .. ' is ' .. text) end
  door[NAMES[i]] = text and tonumber(text)
end
local function counted(name, more) return whole((door[name] or 0) + more) end
local record = key ~= '' and redis.call('HGET', KEYS[3], key)
if record then
  if string.sub(record, 1, #fingerprint + 1) ~= fingerprint .. ' ' then return {'conflict'} end
  redis.call('HSET', KEYS[2], 'received', counted('received', n_good + n_refused), 'duplicate', counted('duplicate', n_good),
    'rejected', counted('rejected', n_refused))
  return {'known', record}
end
for _, origin in ipairs(origins) do
  local mark = redis.call('HGET', KEYS[6], origin)
  if mark and (not again or mark == request) then return {'replayed'} end
end
local last_id = redis.call('HGET', KEYS[2], 'last_id') or '0-0'
-- Rows by XADD do not pass here. The door stays behind them until the scheduler has read them, or their times were lost.
local current = n_entries == 0 or #redis.call('XRANGE', KEYS[1], '(' .. last_id, '+', 'COUNT', 1) == 0
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local arrival = whole(now)

-- write
local ids, stored, bytes = {}, door.stored or 0, door.bytes or 0
local function later(name, value)
  if not door[name] or value > door[name] then door[name] = value end
end
for i, entry in ipairs(entries) do
  local id, arrived
  if entry.kind == 'chunk' then
    local fields = {'_k', 'chunk', 'v', '1', 'n', whole(entry.n), 'seq', whole(stored), 'crc', entry.crc,
      'at', arrival, 'lo', whole(entry.lo or now), 'hi', whole(entry.hi or now), 'coding', entry.coding, 'body', entry.body}
    for _, name in ipairs({'mode', 'only'}) do
      if entry[name] ~= '' then
        fields[#fields + 1] = name
        fields[#fields + 1] = entry[name]
      end
    end
    id = redis.call('XADD', KEYS[1], '*', unpack(fields))
    arrived = now
  else
    id = redis.call('XADD', KEYS[1], '*', unpack(ARGV, entry.from, entry.to))
    arrived = tonumber(string.match(id, '^(%d+)'))
  end
  ids[i] = id
  stored, bytes = stored + entry.n, bytes + entry.bytes
  later('max_ts_ms', entry.hi or arrived)
  if entry.mode == 'backfill' then -- it moves no time and is no sign of life
    later('last_backfill_ms', arrived)
  else
    later('max_seen_ms', math.min(entry.hi or arrived, arrived))
    later('last_arrival_ms', arrived)
  end
end
for from = refused_from, refused_to - 1, 6 do
  local fields = {'reason', ARGV[from + 1], 'code', ARGV[from + 2], 'field', ARGV[from + 3], 'index', ARGV[from + 4],
    'body', ARGV[from + 6]}
  if ARGV[from + 5] ~= '' then
    fields[11], fields[12] = 'header', ARGV[from + 5]
  end
  redis.call('XADD', KEYS[5], '*', unpack(fields))
end
redis.call('HSET', KEYS[2], 'received', counted('received', n_good + n_refused), 'stored', whole(stored), 'duplicate',
  counted('duplicate', 0), 'rejected', counted('rejected', n_refused), 'undeclared', counted('undeclared', n_undeclared),
  'bytes', whole(bytes))
if n_entries > 0 then
  for _, name in ipairs({'max_seen_ms', 'max_ts_ms', 'last_arrival_ms', 'last_backfill_ms'}) do
    if door[name] then redis.call('HSET', KEYS[2], name, whole(door[name])) end
  end
  if current then redis.call('HSET', KEYS[2], 'last_id', ids[n_entries]) end
end
for _, origin in ipairs(origins) do redis.call('HSET', KEYS[6], origin, request) end
if key ~= '' then
  redis.call('HSET', KEYS[3], key, fingerprint .. ' ' .. judged .. ' ' .. arrival .. ' ' .. table.concat(ids, ','))
  redis.call('ZADD', KEYS[4], arrival, key)
  local over = redis.call('ZCARD', KEYS[4]) - KEEP_RECORDS
  for i, old in ipairs(redis.call('ZRANGE', KEYS[4], 0, REMOVE_A_CALL - 1, 'WITHSCORES')) do
    if i % 2 == 1 then fingerprint = old
    elseif tonumber(old) < now - KEEP_MS or (i / 2) <= over then
      redis.call('HDEL', KEYS[3], fingerprint)
      redis.call('ZREM', KEYS[4], fingerprint)
    end
  end
end
return {'new', arrival, unpack(ids)}
