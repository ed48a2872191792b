-- Keeps a live job from being leased. A node that runs it goes on; holding again is harmless.
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
if not job.f.hold then
  put(job, 'hold', '1')
  if job.f.attempt_state ~= 'held' then park(job) end
  save(job)
  emit(job, 'held')
end
return reply(job)
