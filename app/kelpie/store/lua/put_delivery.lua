-- Queues a webhook for delivery, once, however often the same one comes.
--
-- KEYS
--   1   users  when each user has his next turn
-- ARGV
--   1   id          names the delivery; the webhook-id that the receiver sees
--   2   user        whose job it is about
--   3   job         the job
--   4   event       what happened
--   5   url         where it goes
--   6   receiver    host and port of that
--   7   body        what is sent
--   8   max_queued  deliveries of one user that may wait; more are dropped
--   9   keep_ms     how long a settled delivery is kept, ms
--   10  keep_count  settled deliveries of one user that are kept
-- Returns
--   1, or 0 when there was such a delivery already

local id, user, job, event = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local url, receiver, body = ARGV[5], ARGV[6], ARGV[7]
local max_queued, keep_ms, keep_count = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])

if redis.call('EXISTS', delivery_key(id)) == 1 then return 0 end
local order = redis.call('INCR', SEQUENCE)
redis.call('HSET', delivery_key(id), 'status', 'queued', 'user', user, 'job', job, 'event', event, 'url', url,
  'receiver', receiver, 'body', body, 'order', order, 'created', int(now))
local delivery = read_delivery(id)
local waiting = redis.call('HINCRBY', QUEUED, user, 1)
if waiting > max_queued then
  note_attempt(delivery, '', 'too many deliveries wait: ' .. int(max_queued))
  settle(delivery, 'dropped', keep_ms, keep_count)
else
  index_delivery(delivery, keep_ms, keep_count)
  enter_lane(delivery, now)
end
return 1
