-- Says how many replicas of a container group its host is to run.
--
-- KEYS
--   1   group  the group's hash
-- ARGV
--   1   id        id of the group
--   2   replicas  how many; empty: as it is
--   3   state     running or stopped; empty: as it is
-- Returns
--   1

local id, replicas, state = ARGV[1], ARGV[2], ARGV[3]
if redis.call('EXISTS', KEYS[1]) == 0 then return redis.error_reply('NOTFOUND ' .. id) end
if replicas ~= '' then redis.call('HSET', KEYS[1], 'replicas', replicas) end
if state ~= '' then redis.call('HSET', KEYS[1], 'state', state) end
return 1
