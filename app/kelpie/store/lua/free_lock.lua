-- Lets go of a lock, so that another one may take it at once.
--
-- KEYS
--   1   lock  name of its holder, with a TTL
-- ARGV
--   1   holder  who asks
-- Returns
--   1, or 0 when he does not have it

local holder = ARGV[1]
if redis.call('GET', KEYS[1]) ~= holder then return 0 end
redis.call('DEL', KEYS[1])
return 1
