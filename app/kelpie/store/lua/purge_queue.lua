-- Deletes the jobs of a queue whatever their status, some per call, and the events that were passed on.
--
-- KEYS
--   1   meta
-- ARGV
--   1   queue  number of the queue
--   2   last   order of the last job to go; jobs submitted later stay
--   3   limit  jobs per call, at most
-- Returns
--   how many jobs went

local last, limit = ARGV[2], tonumber(ARGV[3])
local count = 0
for _, status in ipairs(STATUSES) do
  local ids = redis.call('ZRANGEBYSCORE', index_key(status), '-inf', last, 'LIMIT', 0, limit - count)
  for _, id in ipairs(ids) do
    purge_job(read_job(id))
    count = count + 1
  end
end
-- What the relay has passed on may go; jobs submitted meanwhile still need the rest.
local relayed = redis.call('HGET', META, 'relay')
if relayed then redis.call('XTRIM', EVENTS, 'MINID', relayed) end
return count
