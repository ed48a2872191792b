-- Deletes jobs of one terminal status that ended before a time, some per call. Called again and again: each call goes
-- on after the last job that the call before looked at.
--
-- KEYS
--   1   meta
-- ARGV
--   1   queue   number of the queue
--   2   status  completed, canceled or failed
--   3   before  time in ms; jobs that ended earlier go
--   4   after   order of the last job that was looked at; 0 at first
--   5   limit   jobs to look at per call, at most
-- Returns
--   {how many jobs went, order of the last job looked at; empty when there are no more}

local status, before, after, limit = ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
-- A job that ended before a time was created before it too.
local ids = redis.call('ZRANGEBYSCORE', index_key(status), '(' .. after, int(before * 1000), 'LIMIT', 0, limit)
local gone, last = 0, ''
for _, id in ipairs(ids) do
  local job = read_job(id)
  last = job.f.order
  if tonumber(job.f[status]) < before then
    purge_job(job)
    gone = gone + 1
  end
end
return {gone, #ids == limit and last or ''}
