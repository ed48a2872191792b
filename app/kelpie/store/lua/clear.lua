-- Empties a queue of its live jobs, some per call: pending jobs are purged, running ones are canceled.
--
-- KEYS
--   1   meta
-- ARGV
--   1   queue      number of the queue
--   2   last       order of the last job to go; jobs submitted later stay
--   3   limit      jobs per call, at most
-- Returns
--   how many jobs went

local last, limit = ARGV[2], ARGV[3]
local count = 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', index_key('pending'), '-inf', last, 'LIMIT', 0, limit)) do
  purge_job(read_job(id))
  count = count + 1
end
if count == 0 then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', index_key('running'), '-inf', last, 'LIMIT', 0, limit)) do
    cancel_job(read_job(id))
    count = count + 1
  end
end
return count
