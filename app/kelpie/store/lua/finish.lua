-- Takes the report of how an attempt ended. The same report twice has one effect and the same answer.
--
-- KEYS
--   1   meta
-- ARGV
--   1   queue      number of the queue
--   2   id         the job
--   3   lease      fencing token, a dot, and the hash of the lease's secret; empty: judge by the node
--   4   node       name of the node
--   5   outcome    completed, app_failed, sync_failed or released
--   6   details    JSON of what else is known of the end: exit_code, reason, …; empty: nothing
--   7   by_hand    empty, or a random name of this report: the caller may report on a job that nobody holds
-- Returns
--   {status, failures, live jobs that the node is banned from}

local id, lease, node, outcome = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local details, by_hand = ARGV[6], ARGV[7]
local known = details ~= '' and cjson.decode(details) or nil
local failing = outcome == 'app_failed' or outcome == 'sync_failed'

local job = read_job(id)
if not job then return not_found(id) end
local mine = speaks_for(job, lease, node)

local function answer()
  local who = mine and job.f.node or node
  return {job.status, job.failures, redis.call('ZCARD', bans_key(who))}
end

local function done()
  save(job)
  announce()
  return answer()
end

if by_hand ~= '' and job.f.by_hand == by_hand then return answer() end -- the reply to this very call was lost
if mine and not job.f.attempt_state then -- this attempt is closed already
  if job.f.outcome == outcome then return answer() end
  return lease_lost(job.live and 'closed' or job.status)
end

if mine then
  if failing then
    fail_attempt(job, outcome, known)
  else
    close_attempt(job, outcome, wall, known)
    if outcome == 'completed' then
      end_job(job, 'completed')
    else
      park(job)
      emit(job, 'released')
    end
  end
  return done()
end

-- Not the holder: only a user may go on, on a job that nobody holds, with a report that needs no holder. An old
-- worker shows no lease and looks like a user; its earlier attempt gives it away.
local why = refusal(job, lease, node)
local needs_no_holder = failing or outcome == 'completed'
if lease ~= '' or by_hand == '' or why == 'superseded' or job.f.attempt_state == 'held' or not needs_no_holder then
  if why == 'not_holder' and not job.live then why = job.status end
  return lease_lost(why)
end
if not job.live then
  if outcome == job.status then return answer() end
  return lease_lost(job.status)
end
put(job, 'by_hand', by_hand)
if outcome == 'completed' then
  if job.f.attempt_state then close_attempt(job, 'superseded', job.f.expired) end
  end_job(job, 'completed')
else
  count_failure(job, outcome, node)
end
return done()
