-- Prepended to every script about webhook deliveries: their keys, the time, and the moves that several make.
-- Deliveries wait in lanes, one per user and receiver; whose turn it is goes round by user, then by lane.

local USERS = KEYS[1]
local ROOT = string.sub(USERS, 1, -6) -- every key of deliveries begins alike, so that all are in one slot
local CLAIMED, BUSY, QUEUED = ROOT .. 'claimed', ROOT .. 'busy', ROOT .. 'queued'
local SEQUENCE = ROOT .. 'sequence'
local MAX_ATTEMPTS = 50 -- that are kept of one delivery; the schedule has fewer, replays add to them
local TRIM_LIMIT = 50

local function lanes_key(user) return ROOT .. 'lanes:' .. user end
local function due_key(user, receiver) return ROOT .. 'due:' .. user .. ':' .. receiver end
local function health_key(user, receiver) return ROOT .. 'health:' .. user .. ':' .. receiver end
local function delivery_key(id) return ROOT .. 'delivery:' .. id end
local function user_key(user) return ROOT .. 'of_user:' .. user end
local function job_key(job) return ROOT .. 'of_job:' .. job end

local function int(x) return string.format('%.0f', x) end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local function read_delivery(id)
  local flat = redis.call('HGETALL', delivery_key(id))
  if #flat == 0 then return nil end
  local delivery = {id = id}
  for i = 1, #flat, 2 do delivery[flat[i]] = flat[i + 1] end
  return delivery
end

-- The delivery may be tried from that time on. A user or lane that has its turn already keeps it.
local function enter_lane(delivery, at)
  redis.call('ZADD', due_key(delivery.user, delivery.receiver), int(at), delivery.id)
  local turn = int(math.max(at, now))
  redis.call('ZADD', lanes_key(delivery.user), 'LT', turn, delivery.receiver)
  redis.call('ZADD', USERS, 'LT', turn, delivery.user)
  redis.call('HSET', delivery_key(delivery.id), 'next_try', int(at))
end

local function release_claim(delivery)
  if redis.call('ZREM', CLAIMED, delivery.id) == 1 then
    if redis.call('HINCRBY', BUSY, delivery.user, -1) <= 0 then redis.call('HDEL', BUSY, delivery.user) end
  end
end

local function note_attempt(delivery, code, problem)
  local attempts = delivery.attempts and cjson.decode(delivery.attempts) or {}
  local attempt = {time = now}
  if code ~= '' then attempt.code = tonumber(code) end
  if problem ~= '' then attempt.error = problem end
  table.insert(attempts, attempt)
  while #attempts > MAX_ATTEMPTS do table.remove(attempts, 1) end
  delivery.attempts = cjson.encode(attempts)
  redis.call('HSET', delivery_key(delivery.id), 'attempts', delivery.attempts)
end

local function delete_delivery(delivery)
  redis.call('ZREM', user_key(delivery.user), delivery.id)
  redis.call('ZREM', job_key(delivery.job), delivery.id)
  redis.call('DEL', delivery_key(delivery.id))
end

-- Lets go of the oldest records of an index: those that have expired, and settled ones beyond keep_count.
local function trim(index, keep_count)
  local surplus = redis.call('ZCARD', index) - keep_count
  for _, id in ipairs(redis.call('ZRANGE', index, 0, TRIM_LIMIT - 1)) do
    local delivery = read_delivery(id)
    if not delivery then
      redis.call('ZREM', index, id)
      surplus = surplus - 1
    elseif surplus > 0 and delivery.status ~= 'queued' then
      delete_delivery(delivery)
      surplus = surplus - 1
    end
  end
end

local function index_delivery(delivery, keep_ms, keep_count)
  for _, index in ipairs({user_key(delivery.user), job_key(delivery.job)}) do
    redis.call('ZADD', index, delivery.order, delivery.id)
    trim(index, keep_count)
    redis.call('PEXPIRE', index, int(2 * keep_ms)) -- outlives its records
  end
end

local function leave_queue(delivery)
  release_claim(delivery)
  redis.call('ZREM', due_key(delivery.user, delivery.receiver), delivery.id)
end

-- The end of a queued delivery; a replay may begin it anew while the record is kept.
local function settle(delivery, status, keep_ms, keep_count)
  leave_queue(delivery)
  if redis.call('HINCRBY', QUEUED, delivery.user, -1) <= 0 then redis.call('HDEL', QUEUED, delivery.user) end
  if delivery.forget then return delete_delivery(delivery) end
  redis.call('HSET', delivery_key(delivery.id), 'status', status, 'ended', int(now))
  redis.call('HDEL', delivery_key(delivery.id), 'next_try')
  index_delivery(delivery, keep_ms, keep_count)
  redis.call('PEXPIRE', delivery_key(delivery.id), int(keep_ms))
end
