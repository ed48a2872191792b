-- Gives a user a new webhook secret; the one until now signs beside it for a while.
--
-- KEYS
--   1   user  the user's hash
-- ARGV
--   1   secret      the new one
--   2   overlap_ms  how long the old one still signs, ms
-- Returns
--   when the old one ends, ms since 1970

local secret, overlap_ms = ARGV[1], tonumber(ARGV[2])
local old = redis.call('HGET', KEYS[1], 'webhook_secret')
if not old then return redis.error_reply('NOTFOUND user') end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if old == secret then -- the reply to this very call was lost
  return tonumber(redis.call('HGET', KEYS[1], 'old_webhook_secret_until'))
end
local ends = string.format('%.0f', now + overlap_ms)
redis.call('HSET', KEYS[1], 'webhook_secret', secret, 'old_webhook_secret', old, 'old_webhook_secret_until', ends)
return tonumber(ends)
