-- Puts jobs whose lease has expired back where other nodes can lease them.
--
-- KEYS
--   1   meta
-- ARGV
--   1   queue  number of the queue
--   2   limit  jobs per call, at most
-- Returns
--   how many leases had expired

local limit = ARGV[2]
local expired = reap(limit)
announce()
return expired
