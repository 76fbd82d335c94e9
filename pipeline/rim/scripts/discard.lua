#!lua flags=allow-oom
-- Delete some panes of a torn stage and partition: only while it is torn, so that a rebuilder that was paused cannot
-- delete what was counted again after another one's reset.
--
-- KEYS[1] checkpoint hash   KEYS[2] hash of pane marks   KEYS[3..] pane hashes
-- ARGV[1..] start ms of each of these panes
-- Returns 1 when they are gone, 0 when it is not torn (any more).

if redis.call('HEXISTS', KEYS[1], 'torn') == 0 then return 0 end
for i = 1, #ARGV do
  redis.call('UNLINK', KEYS[2 + i])
  redis.call('HDEL', KEYS[2], ARGV[i])
end
return 1
