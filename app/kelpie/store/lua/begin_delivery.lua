-- Begins the try that a claim is for; from now on it counts. The same claim again is harmless.
--
-- KEYS
--   1   users  when each user has his next turn
-- ARGV
--   1   id        the delivery
--   2   claim     number of the claim
--   3   claim_ms  how long the claim lasts from now on, ms
-- Returns
--   nil when the claim is void, or the hash of the delivery

local id, claim, claim_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
local delivery = read_delivery(id)
if not delivery or delivery.status ~= 'queued' or delivery.claim ~= claim then return false end
if not redis.call('ZSCORE', CLAIMED, id) then return false end
redis.call('ZADD', CLAIMED, int(now + claim_ms), id)
if delivery.begun ~= claim then
  redis.call('HINCRBY', delivery_key(id), 'tries', 1)
  redis.call('HSET', delivery_key(id), 'begun', claim)
end
return redis.call('HGETALL', delivery_key(id))
