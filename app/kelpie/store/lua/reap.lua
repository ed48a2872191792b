-- Puts jobs whose lease has expired, and delayed jobs that are due, where nodes can lease them.
--
-- KEYS
--   1   meta
-- ARGV
--   1   queue  number of the queue
--   2   limit  jobs of each kind per call, at most
-- Returns
--   how many leases had expired

local limit = ARGV[2]
local expired = reap(limit)
promote(limit)
redis.call('ZREMRANGEBYSCORE', POLLS, '-inf', int(wall - POLLS_KEPT_MS))
announce()
return expired
