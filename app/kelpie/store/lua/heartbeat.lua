-- Renews the lease of a caller that holds the job, also one that has expired and that nobody has taken.
-- An attempt that has run for longer than its job allows ends here, as a failure of the application.
--
-- KEYS
--   1   meta
-- ARGV
--   1   queue   number of the queue
--   2   id      the job
--   3   lease   fencing token, a dot, and the hash of the lease's secret; empty: judge by the node
--   4   node    name of the node
--   5   progress  what the command says of its progress, as JSON; empty: nothing new
-- Returns
--   {status, '', end of the lease in ms}, or {'canceled', reason, ''} when the caller must stop

local id, lease, node, progress = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local job = read_job(id)
if not job then return not_found(id) end
if not speaks_for(job, lease, node) then
  local reason = refusal(job, lease, node)
  if reason == 'not_holder' and not job.live then reason = job.status end
  return {'canceled', reason, ''}
end
if not job.live then return {'canceled', job.status, ''} end
if not job.f.attempt_state then return {'canceled', 'closed', ''} end
if job.f.run_until and now >= tonumber(job.f.run_until) then
  fail_attempt(job, 'app_failed', {reason = 'it ran for longer than max_runtime_s'})
  save(job)
  announce()
  return {'canceled', 'max_runtime', ''}
end

-- Counted once per interval, however often the node beats for safety.
local interval_ms = job.lease_ms / 2
if not job.f.counted or now - tonumber(job.f.counted) >= 0.75 * interval_ms then
  put(job, 'heartbeats', int(tonumber(job.f.heartbeats or '0') + 1))
  put(job, 'counted', int(now))
end
renew(job)
save(job)
if progress ~= '' then
  redis.call('SET', progress_key(id), int(wall) .. ' ' .. job.attempt .. ' ' .. progress)
end
return {job.status, '', int(wall + job.lease_ms)}
