-- Notes that an API key was used, unless that was noted a moment ago or the key has ended meanwhile.
--
-- KEYS
--   1   api_key  the key's hash
-- ARGV
--   1   now       time in ms
--   2   every_ms  how old the last note must be, in ms
-- Returns
--   1 when it was written, else 0

local now, every_ms = ARGV[1], ARGV[2]
local noted = redis.call('HMGET', KEYS[1], 'user_id', 'last_used')
if not noted[1] then return 0 end
if noted[2] and math.abs(tonumber(now) - tonumber(noted[2])) < tonumber(every_ms) then return 0 end
redis.call('HSET', KEYS[1], 'last_used', now)
return 1
