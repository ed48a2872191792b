-- Adds an API key to a user.
--
-- KEYS
--   1   user       the user's hash
--   2   user_keys  digests of the user's keys
--   3   api_key    the key's hash
-- ARGV
--   1   digest    sha256 of the key
--   2   user_id   id of the user
--   3   org_name  organization that the key is bound to
--   4   project   project that the key is bound to
--   5   created   time in ms
--   6   origin    environment or request
-- Returns
--   1

local digest, user_id, org_name, project = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local created, origin = ARGV[5], ARGV[6]
local username = redis.call('HGET', KEYS[1], 'username')
if not username then return redis.error_reply('NOTFOUND ' .. user_id) end
redis.call('SADD', KEYS[2], digest)
redis.call('HSET', KEYS[3], 'user_id', user_id, 'username', username, 'org_name', org_name,
  'project_name', project, 'created', created, 'origin', origin)
return 1
