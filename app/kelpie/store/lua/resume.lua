-- Lets a job that was held be leased again. Resuming again is harmless.
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
if not job.live then return conflict(job.status) end
if job.f.hold then
  drop(job, 'hold')
  if job.f.attempt_state ~= 'held' then park(job) end
  save(job)
  emit(job, 'resumed')
  announce()
end
return reply(job)
