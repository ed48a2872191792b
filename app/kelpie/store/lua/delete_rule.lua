-- Deletes a scaling rule and its decisions.
--
-- KEYS
--   1   rule        the rule's hash
--   2   rules       all rules by creation
--   3   user_rules  the user's rules by creation
--   4   decisions   what was decided by it
-- ARGV
--   1   id       id of the rule
--   2   user_id  whose rule it must be
-- Returns
--   1, or 0 when that user has no such rule

local id, user_id = ARGV[1], ARGV[2]
if redis.call('HGET', KEYS[1], 'user_id') ~= user_id then return 0 end
redis.call('DEL', KEYS[1], KEYS[4])
redis.call('ZREM', KEYS[2], id)
redis.call('ZREM', KEYS[3], id)
return 1
