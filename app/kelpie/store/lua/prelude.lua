-- Prepended to every script of a queue: its keys, its clock, and the moves that several scripts make.
-- Scripts validate first and write last, because Redis does not roll back a script that fails half-way.
-- The fields of a job's hash are described in keys.py; an absent field means its default.

local META = KEYS[1]
local PREFIX = string.sub(META, 1, -5) -- every key of a queue begins alike, so that all are in one slot
local QUEUE = ARGV[1]
local WAITING, LEASED = PREFIX .. 'waiting', PREFIX .. 'leased'
local GRANTS, EVENTS = PREFIX .. 'grants', PREFIX .. 'events'
local STATUSES = {'pending', 'running', 'completed', 'canceled', 'failed'}

local WAKE_CHANNEL = 'kelpie:wake'
local MAX_EVENTS = 100000
local MAX_ATTEMPTS = 1000
local MAX_CLOCK_STEP_MS = 5000
local DEFAULT_MAX_FAILURES, DEFAULT_LEASE_MS = 3, 60000
-- A waiting score is class, then 255 - priority, then sequence: 1 + 8 + 44 bits, exact in a double.
local NEVER_STARTED, PRIORITY_STEP = 2 ^ 52, 2 ^ 44

local function job_key(id) return PREFIX .. 'job:' .. id end
local function spec_key(id) return PREFIX .. 'spec:' .. id end
local function attempts_key(id) return PREFIX .. 'attempts:' .. id end
local function heartbeat_key(id) return PREFIX .. 'heartbeat:' .. id end
local function bans_key(node) return PREFIX .. 'bans:' .. node end
local function index_key(status) return PREFIX .. 'jobs:' .. status end

local function int(x) return string.format('%.0f', x) end

-- Wall time in ms and µs: what the world is shown. now: the logical clock in ms, which deadlines are in.
local wall, wall_us, now

-- The logical clock follows TIME, never goes back, and advances at most MAX_CLOCK_STEP_MS between two calls:
-- a forward jump, a restart or a frozen server lengthens leases instead of expiring all of them at once.
local function read_clock()
  local time = redis.call('TIME')
  wall_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
  if VIRTUAL_CLOCK then
    local virtual_ms = redis.call('GET', PREFIX .. 'virtual_clock')
    if virtual_ms then wall_us = tonumber(virtual_ms) * 1000 end
  end
  wall = math.floor(wall_us / 1000)
  local last = redis.call('HMGET', META, 'wall', 'clock')
  if not last[1] then
    now = wall
    redis.call('HSET', META, 'schema', '1', 'wall', int(wall), 'clock', int(now))
    return
  end
  now = tonumber(last[2])
  local step = wall - tonumber(last[1])
  if step ~= 0 then
    now = now + math.max(0, math.min(step, MAX_CLOCK_STEP_MS))
    redis.call('HSET', META, 'wall', int(wall), 'clock', int(now))
  end
end

local function read_job(id)
  local flat = redis.call('HGETALL', job_key(id))
  if #flat == 0 then return nil end
  local job = {id = id}
  for i = 1, #flat, 2 do job[flat[i]] = flat[i + 1] end
  job.status = job.status or 'pending'
  job.live = job.status == 'pending' or job.status == 'running'
  job.attempt = tonumber(job.attempt or '0')
  job.failures = tonumber(job.failures or '0')
  job.lease_ms = tonumber(job.lease_ms or DEFAULT_LEASE_MS)
  job.max_failures = tonumber(job.max_failures or DEFAULT_MAX_FAILURES)
  return job
end

local function not_found(id) return redis.error_reply('NOTFOUND ' .. id) end
local function lease_lost(reason) return redis.error_reply('LEASELOST ' .. reason) end

-- What the callers read back: the hash of the job and its definition.
local function reply(id) return {id, redis.call('HGETALL', job_key(id)), redis.call('GET', spec_key(id))} end

local function emit(job, kind, node)
  redis.call('XADD', EVENTS, 'MAXLEN', '~', MAX_EVENTS, '*', 'type', kind, 'job', job.id,
    'attempt', job.attempt, 'node', node or job.node or '', 'status', job.status, 'time', int(wall))
end

local became_waiting = 0
local function announce()
  if became_waiting > 0 then redis.call('PUBLISH', WAKE_CHANNEL, QUEUE .. ' ' .. became_waiting) end
end

local function each_ban(job, visit)
  for node in string.gmatch(job.bans or '', '[^\n]+') do visit(bans_key(node)) end
end

local function waiting_score(job)
  local place = tonumber(job.place)
  return job.status == 'pending' and place + NEVER_STARTED or place
end

-- A ban's score is the waiting score of its job while that waits, and its negative while it is leased: the
-- positive part of a bans zset is then a subset of the waiting zset, in the same order.
local function enter_waiting(job)
  local score = int(waiting_score(job))
  redis.call('ZREM', LEASED, job.id)
  redis.call('ZADD', WAITING, score, job.id)
  each_ban(job, function(key) redis.call('ZADD', key, score, job.id) end)
  became_waiting = became_waiting + 1
end

local function enter_leased(job)
  local score = int(-waiting_score(job))
  redis.call('ZREM', WAITING, job.id)
  each_ban(job, function(key) redis.call('ZADD', key, score, job.id) end)
end

local function set_status(job, status)
  local order = redis.call('ZSCORE', index_key(job.status), job.id)
  redis.call('ZREM', index_key(job.status), job.id)
  redis.call('ZADD', index_key(status), order, job.id)
  redis.call('HSET', job_key(job.id), 'status', status)
  job.status = status
end

-- The holder is alive: its lease lasts a full lease time from now.
local function renew(job)
  redis.call('ZADD', LEASED, int(now + job.lease_ms), job.id)
  redis.call('SET', heartbeat_key(job.id), job.attempt .. ' ' .. job.node, 'PX', job.lease_ms)
  redis.call('HSET', job_key(job.id), 'heartbeat', int(wall))
  if job.attempt_state == 'expired' then -- nobody has taken it: a waiting job is not taken from a live node
    enter_leased(job)
    redis.call('HSET', job_key(job.id), 'attempt_state', 'held')
    redis.call('HDEL', job_key(job.id), 'expired')
    emit(job, 'revived')
  end
end

-- Ends the open attempt for good. Its secret stays in the hash, so that a repeated report is recognized.
local function close_attempt(job, outcome, ended, exit_code, reason)
  local record = {
    attempt = job.attempt, node = job.node, start = tonumber(job.attempt_started), outcome = outcome,
    ['end'] = tonumber(ended), last_heartbeat = tonumber(job.heartbeat),
  }
  if exit_code and exit_code ~= '' then record.exit_code = tonumber(exit_code) end
  if reason and reason ~= '' then record.reason = reason end
  redis.call('RPUSH', attempts_key(job.id), cjson.encode(record))
  redis.call('LTRIM', attempts_key(job.id), -MAX_ATTEMPTS, -1)
  redis.call('DEL', heartbeat_key(job.id))
  redis.call('HDEL', GRANTS, job.secret)
  redis.call('HDEL', job_key(job.id), 'attempt_state', 'expired')
  redis.call('HSET', job_key(job.id), 'outcome', outcome)
  job.attempt_state = nil
end

-- The end of a live job in a terminal status. Bans end with their job.
local function end_job(job, status)
  redis.call('ZREM', WAITING, job.id)
  redis.call('ZREM', LEASED, job.id)
  each_ban(job, function(key) redis.call('ZREM', key, job.id) end)
  set_status(job, status)
  redis.call('HSET', job_key(job.id), status, int(wall))
  job.live = false
  emit(job, status)
end

local function cancel_job(job)
  if job.attempt_state == 'held' then
    close_attempt(job, 'canceled', wall)
  elseif job.attempt_state == 'expired' then
    close_attempt(job, 'interrupted', job.expired)
  end
  end_job(job, 'canceled')
end

local function purge_job(job)
  redis.call('ZREM', WAITING, job.id)
  redis.call('ZREM', LEASED, job.id)
  if job.live then each_ban(job, function(key) redis.call('ZREM', key, job.id) end) end
  if job.attempt_state then redis.call('HDEL', GRANTS, job.secret) end
  redis.call('ZREM', index_key(job.status), job.id)
  redis.call('DEL', job_key(job.id), spec_key(job.id), attempts_key(job.id), heartbeat_key(job.id))
  emit(job, 'purged')
end

-- Puts back jobs whose deadline has passed, at most limit: interruptions, which never count as failures.
local function reap(limit)
  local expired = 0
  local due = redis.call('ZRANGEBYSCORE', LEASED, '-inf', int(now), 'WITHSCORES', 'LIMIT', 0, limit)
  for i = 1, #due, 2 do
    local id = due[i]
    local left_ms = redis.call('PTTL', heartbeat_key(id))
    local job = read_job(id)
    if left_ms > job.lease_ms then -- the wall clock went back: TTLs are ends on it
      left_ms = job.lease_ms
      redis.call('PEXPIRE', heartbeat_key(id), left_ms)
    end
    if left_ms > 0 then
      redis.call('ZADD', LEASED, int(now + left_ms), id)
    else
      redis.call('HSET', job_key(id), 'attempt_state', 'expired', 'expired', int(wall - (now - tonumber(due[i + 1]))))
      redis.call('DEL', heartbeat_key(id))
      enter_waiting(job)
      emit(job, 'interrupted')
      expired = expired + 1
    end
  end
  return expired
end

-- Whether the caller speaks for the last attempt: by the lease that it shows, else by its node's name.
-- The secret alone would not do: a poll that comes once more when its attempt is long over has the same one.
local function speaks_for(job, lease, node)
  if job.attempt == 0 then return false end
  if lease ~= '' then return lease == job.fence .. '.' .. job.secret end
  return node == job.node
end

-- Why a caller that does not speak for the last attempt is refused, in one word.
local function refusal(job, lease, node)
  if lease ~= '' then return job.attempt > 1 and 'superseded' or 'not_holder' end
  local records = redis.call('LRANGE', attempts_key(job.id), 0, -1)
  for _, record in ipairs(records) do
    if cjson.decode(record).node == node then return 'superseded' end
  end
  local closed = job.attempt - (job.attempt_state and 1 or 0)
  if closed > #records then return 'superseded' end -- the oldest records are gone: it may be one of them
  return 'not_holder'
end

read_clock()
