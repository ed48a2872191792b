-- Ends an API key of a user.
--
-- KEYS
--   1   user_keys  digests of the user's keys
--   2   api_key    the key's hash
-- ARGV
--   1   digest  sha256 of the key
-- Returns
--   how many keys ended: 1, or 0 when it is no live key of this user

local digest = ARGV[1]
if redis.call('SREM', KEYS[1], digest) == 0 then return 0 end
return redis.call('DEL', KEYS[2])
