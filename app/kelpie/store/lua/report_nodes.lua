-- Notes which nodes a host runs for a container group, and tells what it is to run.
--
-- KEYS
--   1   group          the group's hash
--   2   reallocations  nodes to be replaced
-- ARGV
--   1   id      id of the group
--   2   time    in ms
--   3…  nodes   names of the nodes there are
-- Returns
--   the group's fields and values, the nodes to be replaced

local id, time = ARGV[1], ARGV[2]
if redis.call('EXISTS', KEYS[1]) == 0 then return redis.error_reply('NOTFOUND ' .. id) end
local nodes = {}
for i = 3, #ARGV do nodes[ARGV[i]] = true end
local replace = {}
for _, node in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  if nodes[node] then
    table.insert(replace, node)
  else
    redis.call('SREM', KEYS[2], node)
  end
end
redis.call('HSET', KEYS[1], 'current', #ARGV - 2, 'reported', time)
return {redis.call('HGETALL', KEYS[1]), replace}
