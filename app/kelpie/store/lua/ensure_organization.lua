-- Finds the user who stands for an organization; the first to ask makes him.
--
-- KEYS
--   1   user_names     user id of each name
--   2   organizations  user id and organization's id of each organization's username
--   3   user           hash of the user to be made, should there be none
-- ARGV
--   1   user_id          id of the user to be made
--   2   username         name that stands for the organization
--   3   created          time in ms
--   4   webhook_secret   secret that signs the webhooks of the user to be made
--   5   organization_id  the organization's own id; empty: not known here
-- Returns
--   the user's id

local user_id, username, created, webhook_secret = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local organization_id = ARGV[5]
local known = redis.call('HGET', KEYS[2], username)
if known then
  local owner, bound = string.match(known, '^(%S+) (.*)$')
  if organization_id ~= '' and bound ~= organization_id then
    -- The name has passed to another organization, which must not get this one's jobs.
    if bound ~= '' then return redis.error_reply('CONFLICT ' .. username) end
    redis.call('HSET', KEYS[2], username, owner .. ' ' .. organization_id)
  end
  return owner
end
if redis.call('HEXISTS', KEYS[1], username) == 1 then return redis.error_reply('CONFLICT ' .. username) end
redis.call('HSET', KEYS[3], 'username', username, 'created', created, 'webhook_secret', webhook_secret)
redis.call('HSET', KEYS[1], username, user_id)
redis.call('HSET', KEYS[2], username, user_id .. ' ' .. organization_id)
return user_id
