-- Deletes a user and his keys. His jobs stay; the admin sees them.
--
-- KEYS
--   1   user_names     user id of each name
--   2   user           the user's hash
--   3   user_keys      digests of the user's keys
--   4   organizations  user id and organization's id of each organization's username
--   5   epoch          how many users of organizations were deleted
-- ARGV
--   1   username    his name
--   2   key_prefix  what the name of each key's hash begins with, before the digest
-- Returns
--   how many keys went

local username, key_prefix = ARGV[1], ARGV[2]
local digests = redis.call('SMEMBERS', KEYS[3])
for _, digest in ipairs(digests) do redis.call('DEL', key_prefix .. digest) end
redis.call('DEL', KEYS[2], KEYS[3])
redis.call('HDEL', KEYS[1], username)
if redis.call('HDEL', KEYS[4], username) == 1 then redis.call('INCR', KEYS[5]) end
return #digests
