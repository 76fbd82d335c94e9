#!lua flags=allow-oom
-- Take published panes off a partition's list of due panes: only where the mark that put them there was published.
--
-- KEYS[1] hash of due panes
-- ARGV[1..] pairs of pane start, published mark 'load_ms-commit'
-- Returns how many were taken off.

local settled = 0
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    settled = settled + redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return settled
