-- Changes numbers of a scaling rule, unless its minimum would be above its maximum.
--
-- KEYS
--   1   rule  the rule's hash
-- ARGV
--   1   id       id of the rule
--   2   user_id  whose rule it must be; empty: anybody's
--   3   low      replicas, at least; empty: as it is, like the next two
--   4   high     replicas, at most
--   5   idle_s   how long a finished job still counts, s
--   6   updated  time in ms
-- Returns
--   1, or 0 when the minimum would be above the maximum

local id, user_id, low, high = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local idle_s, updated = ARGV[5], ARGV[6]
local now = redis.call('HMGET', KEYS[1], 'user_id', 'min_replicas', 'max_replicas', 'idle_threshold_seconds')
if not now[1] or (user_id ~= '' and user_id ~= now[1]) then return redis.error_reply('NOTFOUND ' .. id) end
if low == '' then low = now[2] end
if high == '' then high = now[3] end
if idle_s == '' then idle_s = now[4] end
if tonumber(low) > tonumber(high) then return 0 end
redis.call('HSET', KEYS[1], 'min_replicas', low, 'max_replicas', high, 'idle_threshold_seconds', idle_s,
  'updated', updated)
return 1
