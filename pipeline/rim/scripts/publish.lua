#!lua flags=allow-oom
-- Publish one window: the staged result takes the place of the stored one, if its marks are ahead (DESIGN 8.5), or if they
-- are the same and the window has closed since. An open window (`emit: on_update`) is not among the published ones.
--
-- KEYS[1] staged result hash    KEYS[2] result hash          KEYS[3] zset of windows by end   KEYS[4] zset by published_ms
-- KEYS[5] hash partition -> greatest published mark          KEYS[6] list of windows whose rows still go downstream
-- KEYS[7] staged latest hash    KEYS[8] latest hash          KEYS[9] versions hash         KEYS[10..] due windows of tiers
-- ARGV[1] version  ARGV[2] start_ms  ARGV[3] end_ms  ARGV[4] state  ARGV[5] groups
-- ARGV[6] 1 when its rows go downstream   ARGV[7] T: tiers this window is part of, as many as KEYS[10..]
-- then T tier window starts, then one mark for each partition, in order: 'load_ms-commit' or, without a pane of
-- this window, '0-0'. A publication is numbered ('seq'); a tier is due up to the newest number in it.
-- Returns the revision it was published with, or -1 when the marks are not ahead of the stored ones, or -2 when the stage is gone.

local n_tiers = tonumber(ARGV[7])
if not n_tiers or #KEYS ~= 9 + n_tiers then error('publish.lua: ' .. tostring(ARGV[7]) .. ' tiers and ' .. #KEYS .. ' keys') end
local marks, first = {}, 8 + n_tiers
for i = first, #ARGV do
  local load, commit = string.match(ARGV[i], '^(%d+)%-(%d+)$')
  if not load then error('publish.lua: not a mark: ' .. ARGV[i]) end
  marks[i - first + 1] = {tonumber(load), tonumber(commit)}
end
local wanted = {'hash', 'hash', 'zset', 'zset', 'hash', 'list', 'hash', 'hash', 'hash'}
for i = 1, #KEYS do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'none' and kind ~= (wanted[i] or 'hash') then error('publish.lua: ' .. KEYS[i] .. ' is a ' .. kind) end
end
if redis.call('EXISTS', KEYS[1]) == 0 then return -2 end

local function compare(a, b)
  if a[1] ~= b[1] then return a[1] < b[1] and -1 or 1 end
  if a[2] ~= b[2] then return a[2] < b[2] and -1 or 1 end
  return 0
end
local function parse(mark)
  local load, commit = string.match(mark or '0-0', '^(%d+)%-(%d+)$')
  return {tonumber(load), tonumber(commit)}
end

local stored = redis.call('HMGET', KEYS[2], 'revision', 'marks', 'state')
local revision = 0
if stored[1] then
  if ARGV[4] == 'open' and stored[3] ~= 'open' then return -1 end
  local ahead, position = stored[3] == 'open' and ARGV[4] ~= 'open', 0
  for mark in string.gmatch(stored[2], '[^ ]+') do
    position = position + 1
    local order = compare(marks[position] or {0, 0}, parse(mark))
    if order < 0 then return -1 end
    if order > 0 then ahead = true end
  end
  if not ahead then return -1 end
  revision = tonumber(stored[1]) + 1
end

local time = redis.call('TIME')
local now_ms = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
local window = ARGV[2] .. ':' .. ARGV[3]
local seq = redis.call('HGET', KEYS[9], 'publications:' .. ARGV[1]) or '0'
if not string.match(seq, '^%d+$') then error('publish.lua: publications is ' .. seq) end
seq = string.format('%.0f', tonumber(seq) + 1)
redis.call('HSET', KEYS[9], 'publications:' .. ARGV[1], seq)
redis.call('UNLINK', KEYS[2])
redis.call('RENAME', KEYS[1], KEYS[2])
redis.call('PERSIST', KEYS[2])
redis.call('HSET', KEYS[2], 'revision', string.format('%.0f', revision), 'marks', table.concat(ARGV, ' ', first),
  'state', ARGV[4], 'groups', ARGV[5], 'published_ms', now_ms, 'seq', seq)
if ARGV[4] ~= 'open' then redis.call('ZADD', KEYS[3], ARGV[3], window) end
redis.call('ZADD', KEYS[4], now_ms, window)
for i, mark in ipairs(marks) do
  if compare(mark, parse(redis.call('HGET', KEYS[5], tostring(i - 1)))) > 0 then
    redis.call('HSET', KEYS[5], tostring(i - 1), ARGV[first - 1 + i])
  end
end
if ARGV[4] ~= 'open' then
  for i = 1, n_tiers do redis.call('HSET', KEYS[9 + i], ARGV[7 + i], '0-' .. seq .. ' -') end
end
if ARGV[6] == '1' then redis.call('RPUSH', KEYS[6], window .. ':' .. string.format('%.0f', revision) .. ':0') end
local newest = redis.call('ZREVRANGE', KEYS[3], 0, 0)[1]
local active = redis.call('HGET', KEYS[9], 'active')
if newest == window and active == ARGV[1] and redis.call('EXISTS', KEYS[7]) == 1 then
  redis.call('UNLINK', KEYS[8])
  redis.call('RENAME', KEYS[7], KEYS[8])
  redis.call('PERSIST', KEYS[8])
else
  redis.call('UNLINK', KEYS[7])
end
return revision
