-- Tells a process what all processes have spent of some limits in the current minute, its own share included.
-- A repeated call adds nothing.
--
-- KEYS
--   1   spent  of each limit, and the last call of each process
-- ARGV
--   1   process   its random name
--   2   sequence  number of this call
--   3   keep_s    how long the minute is remembered
--   4…  spending  of each: name of the limit, how much this process has spent since its last call
-- Returns
--   what was spent of each limit, in order

local process, sequence, keep_s = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local last = tonumber(redis.call('HGET', KEYS[1], 'process ' .. process) or '-1')
local fresh = sequence > last
local totals = {}
for i = 4, #ARGV, 2 do
  if fresh then
    totals[#totals + 1] = redis.call('HINCRBY', KEYS[1], 'limit ' .. ARGV[i], ARGV[i + 1])
  else
    totals[#totals + 1] = tonumber(redis.call('HGET', KEYS[1], 'limit ' .. ARGV[i]) or '0')
  end
end
if fresh then redis.call('HSET', KEYS[1], 'process ' .. process, sequence) end
redis.call('EXPIRE', KEYS[1], keep_s)
return totals
