-- Gives a live job another priority: its place among those that wait. Its age, and so its turn among its equals,
-- stays. A node that runs it goes on. The same priority again is harmless.
--
-- KEYS
--   1   meta
-- ARGV
--   1   queue     number of the queue
--   2   id        the job
--   3   priority  0 to 255, higher first
-- Returns
--   {job id, hash of the job, spec}

local id, priority = ARGV[2], tonumber(ARGV[3])
local job = read_job(id)
if not job then return not_found(id) end
if not job.live then return conflict(job.status) end
local before = tonumber(job.f.place)
local place = (255 - priority) * PRIORITY_STEP + before % PRIORITY_STEP
if place ~= before then
  put(job, 'place', int(place))
  save(job)
  if job.home == WAITING then -- the bans of one that does not wait get its score when it waits again
    enter(job, WAITING, int(waiting_score(job)))
    score_bans(job, 1)
  end
  emit(job, 'prioritized')
end
return reply(job)
