-- Makes the scaling rule of a container group, unless there is one.
--
-- KEYS
--   1   rule        the rule's hash
--   2   rules       all rules by creation
--   3   user_rules  the user's rules by creation
-- ARGV
--   1   id            id of the container group, and so of the rule
--   2   user_id       whose jobs count
--   3   organization  of the container group
--   4   project       of the container group
--   5   name          of the container group
--   6   low           replicas, at least
--   7   high          replicas, at most
--   8   idle_s        how long a finished job still counts, s
--   9   created       time in ms
-- Returns
--   1

local id, user_id, organization, project, name = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local low, high, idle_s, created = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
if redis.call('EXISTS', KEYS[1]) == 1 then return redis.error_reply('CONFLICT scaled') end
redis.call('HSET', KEYS[1], 'user_id', user_id, 'organization', organization, 'project', project,
  'container_group_name', name, 'min_replicas', low, 'max_replicas', high,
  'idle_threshold_seconds', idle_s, 'created', created, 'updated', created)
redis.call('ZADD', KEYS[2], created, id)
redis.call('ZADD', KEYS[3], created, id)
return 1
