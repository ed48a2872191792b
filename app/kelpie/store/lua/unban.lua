-- Lets nodes have a job again that it bans since they failed on it. Its failures stay counted.
--
-- KEYS
--   1   meta
-- ARGV
--   1   queue  number of the queue
--   2   id     the job
--   3   node   the node; empty: every node
-- Returns
--   {job id, hash of the job, spec}

local id, node = ARGV[2], ARGV[3]
local job = read_job(id)
if not job then return not_found(id) end
if not job.live then return conflict(job.status) end
local kept, lifted = {}, 0
each_line(job.f.bans, function(banned)
  if node == '' or banned == node then
    redis.call('ZREM', bans_key(banned), id)
    lifted = lifted + 1
  else
    kept[#kept + 1] = banned
  end
end)
if lifted > 0 then
  if #kept > 0 then put(job, 'bans', table.concat(kept, '\n')) else drop(job, 'bans') end
  save(job)
  emit(job, 'unbanned', node)
  -- Polls that were refused the job must ask again.
  if redis.call('ZSCORE', WAITING, id) then became_waiting = became_waiting + 1 end
  announce()
end
return reply(job)
