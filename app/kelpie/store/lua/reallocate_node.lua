-- Asks the host of a container group to put another node in the place of one.
--
-- KEYS
--   1   group          the group's hash
--   2   reallocations  nodes to be replaced
-- ARGV
--   1   id     id of the group
--   2   node   name of the node
--   3   limit  nodes that may wait for it, at most
-- Returns
--   1, or 0 when too many wait already

local id, node, limit = ARGV[1], ARGV[2], ARGV[3]
if redis.call('EXISTS', KEYS[1]) == 0 then return redis.error_reply('NOTFOUND ' .. id) end
if redis.call('SCARD', KEYS[2]) >= tonumber(limit) then return 0 end
redis.call('SADD', KEYS[2], node)
return 1
