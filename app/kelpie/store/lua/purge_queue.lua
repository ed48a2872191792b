-- Deletes the jobs of a queue whatever their status, some per call, and the events about them.
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
-- Trimmed, not deleted: the ids of a stream that lives on never go back.
redis.call('XTRIM', EVENTS, 'MAXLEN', 0)
return count
