-- Makes a user, unless the name is taken. The same id and name again is harmless.
--
-- KEYS
--   1   user_names  user id of each name
--   2   user        the user's hash
-- ARGV
--   1   user_id         id of the user
--   2   username        name, unique
--   3   created         time in ms
--   4   webhook_secret  secret that signs the user's webhooks
-- Returns
--   1, or 0 when the user exists already

local user_id, username, created, webhook_secret = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local owner = redis.call('HGET', KEYS[1], username)
if owner == user_id then return 0 end
if owner then return redis.error_reply('CONFLICT ' .. username) end
redis.call('HSET', KEYS[2], 'username', username, 'created', created, 'webhook_secret', webhook_secret)
redis.call('HSET', KEYS[1], username, user_id)
return 1
