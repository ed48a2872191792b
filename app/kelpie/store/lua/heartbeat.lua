-- Renews the lease of a caller that holds the job, also one that has expired and that nobody has taken.
--
-- KEYS
--   1   meta
-- ARGV
--   1   queue   number of the queue
--   2   id      the job
--   3   lease   fencing token, a dot, and the hash of the lease's secret; empty: judge by the node
--   4   node    name of the node
-- Returns
--   {status, '', end of the lease in ms}, or {'canceled', reason, ''} when the caller does not hold the job

local id, lease, node = ARGV[2], ARGV[3], ARGV[4]
local job = read_job(id)
if not job then return not_found(id) end
if not speaks_for(job, lease, node) then
  local reason = refusal(job, lease, node)
  if reason == 'not_holder' and not job.live then reason = job.status end
  return {'canceled', reason, ''}
end
if not job.live then return {'canceled', job.status, ''} end
if not job.attempt_state then return {'canceled', 'closed', ''} end

-- Counted once per interval, however often the node beats for safety.
local interval_ms = job.lease_ms / 2
if not job.counted or now - tonumber(job.counted) >= 0.75 * interval_ms then
  redis.call('HINCRBY', job_key(id), 'heartbeats', 1)
  redis.call('HSET', job_key(id), 'counted', int(now))
end
renew(job)
return {job.status, '', int(wall + job.lease_ms)}
