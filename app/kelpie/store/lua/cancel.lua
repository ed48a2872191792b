-- Cancels a live job at once; its holder learns at its next heartbeat. Canceling again is harmless.
--
-- KEYS
--   1   meta
-- ARGV
--   1   queue  number of the queue
--   2   id     the job
-- Returns
--   {job id, hash of the job, spec}

local id = ARGV[2]
local job = read_job(id)
if not job then return not_found(id) end
if job.live then
  cancel_job(job)
elseif job.status ~= 'canceled' then
  return conflict(job.status)
end
return reply(job)
