-- Gives a queue its number, once and for all.
--
-- KEYS
--   1   queue_numbers  number of each queue
--   2   queue_names    user and container group of each number
--   3   user_queues    numbers of the queues of the user
-- ARGV
--   1   name    name of the queue in queue_numbers
--   2   record  what queue_names is to say of it
-- Returns
--   the number

local name, record = ARGV[1], ARGV[2]
local known = redis.call('HGET', KEYS[1], name)
if known then return tonumber(known) end
-- Numbers are never used again: queues are never unregistered.
local number = redis.call('HLEN', KEYS[2]) + 1
redis.call('HSET', KEYS[2], number, record)
redis.call('SADD', KEYS[3], number)
redis.call('HSET', KEYS[1], name, number)
return number
