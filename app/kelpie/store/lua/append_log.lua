-- Adds lines to the log of a job, which its holder sends in their order. The oldest go when there is no room.
-- Also taken from the last attempt when that has ended: what a command said last may come after the report.
--
-- KEYS
--   1   meta
-- ARGV
--   1   queue      number of the queue
--   2   id         the job
--   3   lease      fencing token, a dot, and the hash of the lease's secret; empty: judge by the node
--   4   node       name of the node
--   5   last       number of the last of these lines, from 1 in each attempt
--   6   lines      packed
--   7   max_bytes  what is kept of the job's log
--   8   ttl_ms     how long it is kept after this
-- Returns
--   1; 0 when these lines were added before

local id, lease, node = ARGV[2], ARGV[3], ARGV[4]
local last, lines, max_bytes, ttl_ms = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7]), ARGV[8]
local ENTRY_BYTES = 64 -- what an entry takes beside its lines

local job = read_job(id)
if not job then return not_found(id) end
if not speaks_for(job, lease, node) then return lease_lost(refusal(job, lease, node)) end

local key = log_key(id)
local kept_bytes = 0
local newest = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
if newest then
  local attempt, line = string.match(newest[1], '(%d+)-(%d+)')
  if tonumber(attempt) == job.attempt and tonumber(line) >= last then return 0 end
  kept_bytes = tonumber(job.f.log_bytes)
end
kept_bytes = kept_bytes + #lines + ENTRY_BYTES
while newest and kept_bytes > max_bytes do
  local oldest = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
  if not oldest then break end
  redis.call('XDEL', key, oldest[1])
  kept_bytes = kept_bytes - #oldest[2][2] - ENTRY_BYTES
end
redis.call('XADD', key, job.attempt .. '-' .. int(last), 'lines', lines)
redis.call('PEXPIRE', key, ttl_ms)
put(job, 'log_bytes', int(kept_bytes))
save(job)
return 1
