#!lua flags=allow-oom
-- Delete consumers of a group that hold nothing and were not heard of for a while: each load of a partition makes a new one.
-- Deleting one that holds entries would drop them for good (FACTS 6), so the check and the deletion are one script.
--
-- KEYS[1] raw stream
-- ARGV[1] consumer group   ARGV[2] idle milliseconds
-- Returns how many were deleted.

local retired = 0
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local about = {}
  for i = 1, #consumer, 2 do about[consumer[i]] = consumer[i + 1] end
  if about.pending == 0 and about.idle > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], about.name)
    retired = retired + 1
  end
end
return retired
