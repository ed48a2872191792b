-- Adds what a process has counted to the totals of all processes, and notes that it is alive. A repeated report
-- changes nothing.
--
-- KEYS
--   1   requests   totals
--   2   processes  what each process said last
-- ARGV
--   1   process   its random name
--   2   sequence  number of this report
--   3   polls     long polls that it holds open
--   4…  counts    of each: field, how much to add
-- Returns
--   1, or 0 when this report was taken before

local process, sequence, polls = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local KEEP_S = 60 -- a process that is silent for longer has ended
local now_s = tonumber(redis.call('TIME')[1])
local last = redis.call('HGET', KEYS[2], process)
if last and sequence <= tonumber(string.match(last, '^%d+')) then return 0 end
local said = redis.call('HGETALL', KEYS[2])
for i = 1, #said, 2 do
  if now_s - tonumber(string.match(said[i + 1], '%d+$')) > KEEP_S then redis.call('HDEL', KEYS[2], said[i]) end
end
redis.call('HSET', KEYS[2], process, sequence .. ' ' .. polls .. ' ' .. now_s)
for i = 4, #ARGV, 2 do redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1]) end
return 1
