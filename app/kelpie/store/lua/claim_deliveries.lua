-- Hands out deliveries whose time has come, to be tried now. One per user in turn, so that nobody waits for long
-- behind another's receiver. A claim that ends without a report makes its delivery due again.
--
-- KEYS
--   1   users  when each user has his next turn
-- ARGV
--   1   limit       claims that may be open at once
--   2   per_user    of these for one user
--   3   claim_ms    how long a claim lasts, ms
--   4   max_tries   tries after which a delivery whose claim ended has failed
--   5   keep_ms     how long a settled delivery is kept, ms
--   6   keep_count  settled deliveries of one user that are kept
-- Returns
--   a flat list of delivery ids and the number of the claim of each

local limit, per_user, claim_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local max_tries, keep_ms, keep_count = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local SCAN = 100

for _, id in ipairs(redis.call('ZRANGEBYSCORE', CLAIMED, '-inf', int(now), 'LIMIT', 0, SCAN)) do
  local delivery = read_delivery(id)
  if not delivery then
    redis.call('ZREM', CLAIMED, id)
  else
    local begun = delivery.begun == delivery.claim
    if begun then note_attempt(delivery, '', 'the process that delivered it ended') end
    if begun and tonumber(delivery.tries) >= max_tries then
      settle(delivery, 'failed', keep_ms, keep_count)
    else
      release_claim(delivery)
      enter_lane(delivery, now)
    end
  end
end

local claimed = {}
local turns = 0 -- given by this call: lanes that had one come after those that had none in the same millisecond

-- When the first delivery of a lane may be tried; nil when there is none.
local function ready_at(user, receiver)
  local first = redis.call('ZRANGE', due_key(user, receiver), 0, 0, 'WITHSCORES')
  if not first[1] then return nil end
  local closed_until = redis.call('HGET', health_key(user, receiver), 'until')
  return math.max(tonumber(first[2]), tonumber(closed_until or '0')), first[1]
end

local function take(user, receiver, id)
  redis.call('ZREM', due_key(user, receiver), id)
  redis.call('ZADD', CLAIMED, int(now + claim_ms), id)
  redis.call('HINCRBY', BUSY, user, 1)
  local claim = redis.call('HINCRBY', delivery_key(id), 'claim', 1)
  -- A receiver that is away is asked by one delivery at a time.
  if redis.call('HEXISTS', health_key(user, receiver), 'until') == 1 then
    redis.call('HSET', health_key(user, receiver), 'until', int(now + claim_ms))
  end
  claimed[#claimed + 1] = id
  claimed[#claimed + 1] = claim
end

-- Gives a user one turn: the delivery of the lane that has waited longest. Whether there was one.
local function turn(user)
  local lanes, took = lanes_key(user), false
  for _, receiver in ipairs(redis.call('ZRANGEBYSCORE', lanes, '-inf', '(' .. int(now + 1), 'LIMIT', 0, SCAN)) do
    local at, id = ready_at(user, receiver)
    if at and at <= now then
      take(user, receiver, id)
      took, turns = true, turns + 1
      at = ready_at(user, receiver)
    end
    if at then
      redis.call('ZADD', lanes, string.format('%.3f', math.max(at, now + turns / 1000)), receiver)
    else
      redis.call('ZREM', lanes, receiver)
    end
    if took then break end
  end
  local next_lane = redis.call('ZRANGE', lanes, 0, 0, 'WITHSCORES')
  if next_lane[1] then
    redis.call('ZADD', USERS, int(math.max(tonumber(next_lane[2]), now)), user)
  else
    redis.call('ZREM', USERS, user)
  end
  return took
end

local room = limit - redis.call('ZCARD', CLAIMED)
local progress = true
while room > 0 and progress do
  progress = false
  for _, user in ipairs(redis.call('ZRANGEBYSCORE', USERS, '-inf', int(now), 'LIMIT', 0, SCAN)) do
    if room <= 0 then break end
    if tonumber(redis.call('HGET', BUSY, user) or '0') >= per_user then
      redis.call('ZADD', USERS, int(now), user) -- behind those who may have a turn
    elseif turn(user) then
      room, progress = room - 1, true
    end
  end
end
return claimed
