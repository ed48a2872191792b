-- Opens a failed or canceled job again, without its failures and bans, and ends the pause of a delayed one.
-- Any other live job is left as it is, so that a repeat is harmless. The attempts stay, and count on.
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
if job.status == 'completed' then return conflict(job.status) end
if not job.live then
  drop(job, job.status) -- the time of its end
  drop(job, 'failures')
  drop(job, 'bans')
  drop(job, 'by_hand')
  job.failures = 0
  set_status(job, job.attempt > 0 and 'running' or 'pending')
elseif job.f.due and not job.f.hold then
  drop(job, 'due')
else
  return reply(job)
end
park(job)
save(job)
emit(job, 'requeued')
announce()
return reply(job)
