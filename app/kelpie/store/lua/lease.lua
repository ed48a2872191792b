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
  local first = redis.call('ZRANGE', WAITING, 0, 0)[1]
  if not first then return nil end
  local bans = bans_key(node)
  local banned = redis.call('ZCOUNT', bans, '(0', '+inf')
  if banned == 0 then return first end
  local function some_allowed(m)
    local mth = redis.call('ZRANGE', WAITING, m - 1, m - 1, 'WITHSCORES')
    return redis.call('ZCOUNT', bans, '(0', mth[2]) < m
  end
  -- Usually it failed on the jobs that wait first: all of its bans, then the one that it may have.
  local low, high = banned + 1, banned + 1
  if some_allowed(banned) then
    low, high = 1, 1
    while high < banned and not some_allowed(high) do
      low, high = high + 1, high * 16
    end
    high = math.min(high, banned)
  end
  while low < high do
    local middle = math.floor((low + high) / 2)
    if some_allowed(middle) then high = middle else low = middle + 1 end
  end
  return redis.call('ZRANGE', WAITING, low - 1, low - 1)[1]
end

local function grant(job)
  local answer = reply(job)
  answer[4], answer[5] = job.f.fence, int(wall + job.lease_ms)
  return answer
end

redis.call('ZADD', POLLS, int(wall), node)
local repeated = redis.call('HGET', GRANTS, secret)
if repeated then
  local job = read_job(repeated)
  renew(job)
  save(job)
  return grant(job)
end

reap(reap_limit)
promote(reap_limit)
local id = first_allowed()
if id then
  local job = read_job(id)
  close_for(job)
  if job.status == 'pending' then
    set_status(job, 'running')
    put(job, 'started', int(wall))
  end
  -- Strictly increasing even when a failover lost the last writes.
  local fence = int(math.max(last_fence + 1, wall_us))
  redis.call('HSET', META, 'fence', fence)
  redis.call('HSET', GRANTS, secret, id)
  leave(job)
  score_bans(job, -1)
  job.attempt = job.attempt + 1
  put(job, 'attempt', job.attempt)
  put(job, 'attempt_state', 'held')
  put(job, 'attempt_started', int(wall))
  put(job, 'node', node)
  put(job, 'secret', secret)
  put(job, 'fence', fence)
  drop(job, 'outcome')
  if job.f.max_runtime_ms then put(job, 'run_until', int(now + tonumber(job.f.max_runtime_ms))) end
  if redis.call('ZADD', node_key(node), job.f.order, id) == 1 then
    redis.call('ZREMRANGEBYRANK', node_key(node), 0, -MAX_NODE_JOBS - 1)
    redis.call('EXPIRE', node_key(node), NODE_JOBS_TTL_S)
  end
  renew(job)
  save(job)
  emit(job, 'running')
  announce()
  return grant(job)
end
announce()
return false
