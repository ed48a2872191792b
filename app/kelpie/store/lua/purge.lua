-- Deletes a job and everything that is kept of it, whatever its status; a holder hears that it is gone.
--
-- KEYS
--   1   meta
-- ARGV
--   1   queue  number of the queue
--   2   id     the job
-- Returns
--   1, or 0 when there is no such job (a repeat is harmless)

local id = ARGV[2]
local job = read_job(id)
if not job then return 0 end
purge_job(job)
return 1
