#!lua flags=allow-oom
-- Note what was published of a partition's due panes: only where the mark that put them there was published.
--
-- KEYS[1] hash of due panes: pane start -> 'MARK FROM_END'   KEYS[2] checkpoint, which counts them; none of a tier's list
-- ARGV[1..] triples of pane start, published mark 'load_ms-commit', end of the first window still to publish ('' = none)
-- Returns how many were taken off the list.

local settled = 0
for i = 1, #ARGV, 3 do
  local mark = string.match(redis.call('HGET', KEYS[1], ARGV[i]) or '', '^%S+')
  if mark == ARGV[i + 1] then
    if ARGV[i + 2] == '' then
      settled = settled + redis.call('HDEL', KEYS[1], ARGV[i])
    else
      redis.call('HSET', KEYS[1], ARGV[i], mark .. ' ' .. ARGV[i + 2])
    end
  end
end
if settled > 0 and KEYS[2] and string.match(redis.call('HGET', KEYS[2], 'due') or '', '^%d+$') then
  redis.call('HINCRBY', KEYS[2], 'due', -settled)
end
return settled
