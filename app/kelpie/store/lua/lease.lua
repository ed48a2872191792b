-- Grants one waiting job to a node, or repeats the grant that the same request was given before.
-- Resumed jobs come first, then never started ones; by priority, then age; never a job that bans the node.
--
-- KEYS
--   1   meta
-- ARGV
--   1   queue       number of the queue
--   2   node        name of the node
--   3   secret      hash of the lease's secret, which is derived from the request id
--   4   reap_limit  expired leases to put back first, at most
-- Returns
--   nil, or {job id, hash of the job, spec, fence, end of the lease in ms}

local node, secret, reap_limit = ARGV[2], ARGV[3], ARGV[4]

-- The id of the first waiting job that does not ban the node. The positive part of bans is a subset of waiting
-- with the same scores, so the first m waiting jobs are all banned iff it holds m jobs up to the score of the
-- m-th. That is monotone: gallop, then search by halves. O(log bans * log waiting), in exact order.
local function first_allowed()
  local waiting = redis.call('ZCARD', WAITING)
  if waiting == 0 then return nil end
  local first = redis.call('ZRANGE', WAITING, 0, 0)[1]
  local bans = bans_key(node)
  local banned = redis.call('ZCOUNT', bans, '(0', '+inf')
  if banned == 0 then return first end
  if banned >= waiting then return nil end -- all of them: no search
  local function some_allowed(m)
    local mth = redis.call('ZRANGE', WAITING, m - 1, m - 1, 'WITHSCORES')
    return redis.call('ZCOUNT', bans, '(0', mth[2]) < m
  end
  local low, high = 1, 1
  while high <= banned and not some_allowed(high) do
    low, high = high + 1, high * 2
  end
  high = math.min(high, banned + 1) -- among one more job than there are bans, one is allowed
  while low < high do
    local middle = math.floor((low + high) / 2)
    if some_allowed(middle) then high = middle else low = middle + 1 end
  end
  return redis.call('ZRANGE', WAITING, low - 1, low - 1)[1]
end

local function grant(job, fence)
  local answer = reply(job.id)
  answer[4], answer[5] = fence, int(wall + job.lease_ms)
  return answer
end

local repeated = redis.call('HGET', GRANTS, secret)
if repeated then
  local job = read_job(repeated)
  renew(job)
  return grant(job, job.fence)
end

reap(reap_limit)
local id = first_allowed()
if id then
  local job = read_job(id)
  if job.attempt_state == 'expired' then close_attempt(job, 'interrupted', job.expired) end
  -- Strictly increasing even when a failover lost the last writes.
  local fence = int(math.max(tonumber(redis.call('HGET', META, 'fence') or '0') + 1, wall_us))
  if job.status == 'pending' then
    set_status(job, 'running')
    redis.call('HSET', job_key(id), 'started', int(wall))
  end
  job.attempt, job.node = job.attempt + 1, node
  redis.call('HSET', META, 'fence', fence)
  redis.call('HSET', GRANTS, secret, id)
  redis.call('HSET', job_key(id), 'attempt', job.attempt, 'attempt_state', 'held', 'attempt_started', int(wall),
    'node', node, 'secret', secret, 'fence', fence)
  job.attempt_state = 'held'
  enter_leased(job)
  renew(job)
  emit(job, 'running')
  announce()
  return grant(job, fence)
end
announce()
return false
