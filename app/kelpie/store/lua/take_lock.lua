-- Takes a lock, or keeps it for longer.
--
-- KEYS
--   1   lock  name of its holder, with a TTL
-- ARGV
--   1   holder  who asks
--   2   ttl_ms  how long he has it, ms
-- Returns
--   1, or 0 when another one has it

local holder, ttl_ms = ARGV[1], ARGV[2]
local now = redis.call('GET', KEYS[1])
if now and now ~= holder then return 0 end
redis.call('SET', KEYS[1], holder, 'PX', ttl_ms)
return 1
