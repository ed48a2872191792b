-- Registers a container group of the local provider, or renames the one there is.
--
-- KEYS
--   1   group   the group's hash
--   2   groups  all groups by creation
-- ARGV
--   1   id            id of the group
--   2   name          its name
--   3   organization  whose it is
--   4   project       of that organization
--   5   slots         jobs that one replica runs at once
--   6   time          in ms
-- Returns
--   1 when it is new, else 0

local id, name, organization, project = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local slots, time = ARGV[5], ARGV[6]
local is_new = redis.call('HSETNX', KEYS[1], 'created', time)
redis.call('HSETNX', KEYS[1], 'state', 'stopped')
redis.call('HSETNX', KEYS[1], 'replicas', 0)
redis.call('HSET', KEYS[1], 'name', name, 'organization', organization, 'project', project,
  'slots', slots, 'updated', time)
redis.call('ZADD', KEYS[2], 'NX', time, id)
return is_new
