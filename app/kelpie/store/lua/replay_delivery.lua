-- Begins a delivery anew, at once and with all of its tries, under the same id.
--
-- KEYS
--   1   users  when each user has his next turn
-- ARGV
--   1   id    the delivery
--   2   user  who asks; it must be his
-- Returns
--   the hash of the delivery

local id, user = ARGV[1], ARGV[2]
local delivery = read_delivery(id)
if not delivery or delivery.user ~= user or delivery.forget then
  return redis.error_reply('NOTFOUND webhook delivery of that id')
end
redis.call('DEL', health_key(user, delivery.receiver)) -- he knows that the receiver is there again
if delivery.status ~= 'queued' then
  redis.call('HINCRBY', QUEUED, user, 1)
  redis.call('HSET', delivery_key(id), 'status', 'queued', 'tries', 0)
  redis.call('HDEL', delivery_key(id), 'ended')
  redis.call('PERSIST', delivery_key(id))
end
if not redis.call('ZSCORE', CLAIMED, id) then
  enter_lane(delivery, now)
end
return redis.call('HGETALL', delivery_key(id))
