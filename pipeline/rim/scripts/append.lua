#!lua
-- Append one step of a batch to one stream partition, exactly once where it has an idempotency key (DESIGN sections 6, 7).
-- Parse every argument, then read and check, then write; after the first write nothing can fail. Without allow-oom: a
-- server at maxmemory refuses the whole script before it begins.
--
-- KEYS[1] raw stream      KEYS[2] door hash     KEYS[3] hash of idempotency records
-- KEYS[4] zset of idempotency keys by arrival   KEYS[5] quarantine stream
-- KEYS[6] hash of the rows of a stage that were replayed, only where this step replays some: origin -> request
-- or KEYS[6] hash of ids: 8-byte hash -> arrival ms, and KEYS[7] list of them by arrival: `ARRIVAL_MS HASHES` of each
-- append, only where the rows of this step have ids to be known by (DESIGN 7)
-- ARGV[1] idempotency key, '' = none            ARGV[2] fingerprint of the request
-- ARGV[3] clock the rows were judged by, ms     ARGV[4] rows of the request in this step that are good
-- ARGV[5] of them, rows with undeclared fields  ARGV[6] e: entries     ARGV[7] q: refused rows
-- ARGV[8] good rows that were left out of it, since their ids are known
-- then e x ('chunk', n, lo, hi, crc, mode, only, coding, body) or e x ('row', time, m, m x field/value pairs); no event
-- time: '' in lo, hi, time; mode 'backfill' or '', only the consumer group it is for or ''
-- then q x (reason, code, field, index, header, body), header '' where it is no CSV; then, with KEYS[6], request, again ('1' or ''), m, m x origin;
-- or, with KEYS[7], for how many ms ids are kept, and the hashes of the ids of this step, each once, 8 bytes each
-- Record: 'FINGERPRINT JUDGED_MS ARRIVAL_MS ID,ID'; kept 24 h or 100,000 a partition, removed in small steps.
-- Returns {'new', arrival_ms, id...}, {'known', record}, {'conflict'}, {'replayed'} (some origin was replayed before) or
-- {'type', key}; 'known' and 'new' count in the door: received = stored + duplicate + rejected after every call.
-- Of ids that are known: {'seen', n...}, their numbers from 0, and nothing was written: the rest is to be sent again. At
-- KEEP_IDS of them {'full', ms}: when the oldest goes; nothing but ids that are too old was removed.

local KEEP_RECORDS, KEEP_MS, REMOVE_A_CALL = 100000, 24 * 3600 * 1000, 16
local MAX_PAIRS = 3000 -- unpack fails above some 8,000 values (FACTS 3)
local KEEP_IDS, MAX_IDS, HASH = 10000000, 3000, 8 -- a partition; a step, unpack fails above some 8,000; bytes

local at = 8
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
local n_left_out = count(ARGV[8])
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
local request, again, origins, within, hashes, ids_of_step = '', false, {}, 0, '', {}
local function unpacked(packed)
  local found = {}
  for from = 1, #packed, HASH do found[#found + 1] = string.sub(packed, from, from + HASH - 1) end
  return found
end
if KEYS[7] then
  within, hashes = count(take()), take() or ''
  if #hashes % HASH ~= 0 or #hashes / HASH > MAX_IDS then error('append.lua: not hashes: ' .. #hashes .. ' bytes') end
  ids_of_step = unpacked(hashes)
elseif KEYS[6] then
  request, again = take(), take() == '1'
  for i = 1, count(take()) do origins[i] = take() or '' end
end
if at ~= #ARGV then error('append.lua: ' .. #ARGV .. ' arguments, ' .. at .. ' understood') end
if n_events ~= n_good then error('append.lua: ' .. n_events .. ' events, ' .. n_good .. ' announced') end

-- check
local wanted = {'stream', 'hash', 'hash', 'zset', 'stream', 'hash', 'list'}
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
  redis.call('HSET', KEYS[2], 'received', counted('received', n_good + n_left_out + n_refused), 'duplicate',
    counted('duplicate', n_good + n_left_out), 'rejected', counted('rejected', n_refused))
  return {'known', record}
end
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local arrival = whole(now)
local function is_kept(since) return since and now - tonumber(since) < within end
local function forget_old_ids(budget)
  while budget > 0 do
    local oldest = redis.call('LINDEX', KEYS[7], 0)
    if not oldest or is_kept(string.match(oldest, '^%d+')) then return end
    local old, gone = unpacked(string.sub(oldest, (string.find(oldest, ' ', 1, true)) + 1)), {}
    for i, since in ipairs(redis.call('HMGET', KEYS[6], unpack(old))) do
      if since and not is_kept(since) then gone[#gone + 1] = old[i] end -- it may have come again since
    end
    if #gone > 0 then redis.call('HDEL', KEYS[6], unpack(gone)) end
    redis.call('LPOP', KEYS[7])
    budget = budget - #old
  end
end
if #ids_of_step > 0 then
  local seen = {'seen'}
  for i, since in ipairs(redis.call('HMGET', KEYS[6], unpack(ids_of_step))) do
    if is_kept(since) then seen[#seen + 1] = i - 1 end
  end
  if #seen > 1 then return seen end
  if redis.call('HLEN', KEYS[6]) + #ids_of_step > KEEP_IDS then
    forget_old_ids(MAX_IDS)
    if redis.call('HLEN', KEYS[6]) + #ids_of_step > KEEP_IDS then
      local oldest = redis.call('LINDEX', KEYS[7], 0) or arrival
      return {'full', whole(math.max(0, tonumber(string.match(oldest, '^%d+')) + within - now))}
    end
  end
end
for _, origin in ipairs(origins) do
  local mark = redis.call('HGET', KEYS[6], origin)
  if mark and (not again or mark == request) then return {'replayed'} end
end
local last_id = redis.call('HGET', KEYS[2], 'last_id') or '0-0'
-- Rows by XADD do not pass here. The door stays behind them until the scheduler has read them, or their times were lost.
local current = n_entries == 0 or #redis.call('XRANGE', KEYS[1], '(' .. last_id, '+', 'COUNT', 1) == 0

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
redis.call('HSET', KEYS[2], 'received', counted('received', n_good + n_left_out + n_refused), 'stored', whole(stored),
  'duplicate', counted('duplicate', n_left_out), 'rejected', counted('rejected', n_refused), 'undeclared', counted('undeclared', n_undeclared),
  'bytes', whole(bytes))
if n_entries > 0 then
  for _, name in ipairs({'max_seen_ms', 'max_ts_ms', 'last_arrival_ms', 'last_backfill_ms'}) do
    if door[name] then redis.call('HSET', KEYS[2], name, whole(door[name])) end
  end
  if current then redis.call('HSET', KEYS[2], 'last_id', ids[n_entries]) end
end
for _, origin in ipairs(origins) do redis.call('HSET', KEYS[6], origin, request) end
if #ids_of_step > 0 then
  local pairs_of_ids = {}
  for i, id in ipairs(ids_of_step) do pairs_of_ids[2 * i - 1], pairs_of_ids[2 * i] = id, arrival end
  redis.call('HSET', KEYS[6], unpack(pairs_of_ids))
  redis.call('RPUSH', KEYS[7], arrival .. ' ' .. hashes)
  forget_old_ids(2 * #ids_of_step)
  for i = 6, 7 do redis.call('PEXPIRE', KEYS[i], whole(within + 60000)) end -- all of them are too old then
end
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
