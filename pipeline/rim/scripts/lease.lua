#!lua flags=allow-oom
-- Take, keep or give back leases of stream partitions. A lease saves wasted work; correctness is the fence's.
--
-- KEYS[1] lease string
-- ARGV[1] worker   ARGV[2] milliseconds to hold it, '0' to give it back
-- Returns 1 when the worker holds the lease afterwards, else 0.

local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
