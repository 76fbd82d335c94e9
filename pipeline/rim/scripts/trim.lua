#!lua flags=allow-oom
-- Remove one step of entries up to a sampled cursor that every group of the running config has committed.
-- Entries up to a checkpoint's cursor are acknowledged (the commit does both), so nothing unread or pending can go.
--
-- KEYS[1] raw stream    KEYS[2] zset of sampled cuts    KEYS[3] hash of the last trim's cut
-- KEYS[4] list of the reloads of lookup tables in the log
-- KEYS[5..] checkpoints of the groups of the running config; none where nothing reads the stream
-- ARGV[1] sampled cursor        ARGV[2] max_seen_ms at it     ARGV[3] max_ts_ms at it, '' = no event yet
-- ARGV[4] the id after the cursor: the first entry that stays  ARGV[5] entries a step removes at most
-- The cut is written before the entries go: from then on the log begins after it, whatever is still there.
-- Returns {entries removed, 1 when the cursor is reached}, or {-1, the checkpoint that forbids it}.

local function id(text)
  local ms, seq = string.match(text or '', '^(%d+)%-(%d+)$')
  if not ms then error('trim.lua: not an entry id: ' .. tostring(text)) end
  return ms, seq
end
-- Decimal texts, not doubles: a sequence number may be larger than 2^53.
local function compare(a, b)
  if #a ~= #b then return #a < #b and -1 or 1 end
  if a == b then return 0 end
  return a < b and -1 or 1
end
local function before(a, b)
  local a_ms, a_seq = id(a)
  local b_ms, b_seq = id(b)
  local order = compare(a_ms, b_ms)
  if order == 0 then order = compare(a_seq, b_seq) end
  return order < 0
end

if not before(ARGV[1], ARGV[4]) then error('trim.lua: ' .. ARGV[4] .. ' is not after ' .. ARGV[1]) end
local limit = tonumber(ARGV[5])
if not string.match(ARGV[5], '^%d+$') then error('trim.lua: not a step: ' .. ARGV[5]) end
local wanted = {'stream', 'zset', 'hash', 'list'}
for i = 1, #KEYS do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'none' and kind ~= (wanted[i] or 'hash') then error('trim.lua: ' .. KEYS[i] .. ' is a ' .. kind) end
end
for i = 5, #KEYS do
  local checkpoint = redis.call('HMGET', KEYS[i], 'cursor', 'torn')
  if not checkpoint[1] or checkpoint[1] == '' or checkpoint[2] or before(checkpoint[1], ARGV[1]) then
    return {-1, KEYS[i]}
  end
end

local reloads = {} -- what the tables are at the cut: whoever begins there joins with them
for _, line in ipairs(redis.call('LRANGE', KEYS[4], 0, -1)) do
  local at, content, name = string.match(line, '^(%d+%-%d+) (%S+) (.*)$')
  if not at then error('trim.lua: not a reload: ' .. line) end
  if not before(ARGV[1], at) then reloads[#reloads + 1] = {line = line, name = name, content = content} end
end

local cut = redis.call('HGET', KEYS[3], 'cursor')
if not cut or before(cut, ARGV[1]) then
  redis.call('HSET', KEYS[3], 'cursor', ARGV[1], 'max_seen_ms', ARGV[2])
  if ARGV[3] ~= '' then redis.call('HSET', KEYS[3], 'max_ts_ms', ARGV[3]) end
  for _, reload in ipairs(reloads) do
    redis.call('HSET', KEYS[3], 'table:' .. reload.name, reload.content)
    redis.call('LREM', KEYS[4], 1, reload.line)
  end
end
-- "~" removes whole nodes, as many as the limit allows, and none when the first is larger than it: 100 entries, or what
-- stream-node-max-entries says. When all three find nothing, what is left below the cursor is part of one node.
for _, most in ipairs({limit, 100, 10000}) do
  local removed = redis.call('XTRIM', KEYS[1], 'MINID', '~', ARGV[4], 'LIMIT', most)
  if removed > 0 then return {removed, 0} end
end
local removed = redis.call('XTRIM', KEYS[1], 'MINID', '=', ARGV[4])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. id(ARGV[1]))
redis.call('ZREM', KEYS[2], ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. ARGV[3])
return {removed, 1}
