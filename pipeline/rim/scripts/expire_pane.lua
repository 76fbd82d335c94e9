#!lua flags=allow-oom
-- Delete one pane that no result uses any more, unless it is still to be published.
--
-- KEYS[1] hash of pane marks   KEYS[2] hash of due panes   KEYS[3] pane hash   KEYS[4] checkpoint, which counts the marks
-- ARGV[1] pane start ms
-- Returns 1 when the pane is gone, 0 when it is due.

if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return 0 end
redis.call('UNLINK', KEYS[3])
local gone = redis.call('HDEL', KEYS[1], ARGV[1])
if gone > 0 and string.match(redis.call('HGET', KEYS[4], 'panes') or '', '^%d+$') then
  redis.call('HINCRBY', KEYS[4], 'panes', -gone)
end
return 1
