-- Prepended to every script of a queue: its keys, its clock, and the moves that several scripts make.
-- Scripts validate first and write last, because Redis does not roll back a script that fails half-way.
-- The fields of a job's hash are described in keys.py; an absent field means its default.

local SCHEMA = 2 -- of this layout; migrations.py says what each version changed

local META = KEYS[1]
local PREFIX = string.sub(META, 1, -5) -- every key of a queue begins alike, so that all are in one slot
local QUEUE = ARGV[1]
local WAITING, LEASED = PREFIX .. 'waiting', PREFIX .. 'leased'
local DELAYED, ON_HOLD = PREFIX .. 'delayed', PREFIX .. 'on_hold'
local GRANTS, EVENTS = PREFIX .. 'grants', PREFIX .. 'events'
local POLLS, COUNTERS = PREFIX .. 'polls', PREFIX .. 'counters'
local STATUSES = {'pending', 'running', 'completed', 'canceled', 'failed'}

local WAKE_CHANNEL = 'kelpie:wake'
local MAX_EVENTS = 100000
local MAX_ATTEMPTS = 1000
local MAX_NODE_JOBS, NODE_JOBS_TTL_S = 1000, 2592000
local MAX_CLOCK_STEP_MS = 5000
local POLLS_KEPT_MS = 86400000
local MAX_BACKOFF_MS = 86400000
local DEFAULT_MAX_FAILURES, DEFAULT_LEASE_MS = 3, 60000
-- A waiting score is class, then 255 - priority, then sequence: 1 + 8 + 44 bits, exact in a double.
local NEVER_STARTED, PRIORITY_STEP = 2 ^ 52, 2 ^ 44

local function job_key(id) return PREFIX .. 'job:' .. id end
local function spec_key(id) return PREFIX .. 'spec:' .. id end
local function attempts_key(id) return PREFIX .. 'attempts:' .. id end
local function heartbeat_key(id) return PREFIX .. 'heartbeat:' .. id end
local function progress_key(id) return PREFIX .. 'progress:' .. id end
local function transfers_key(id) return PREFIX .. 'transfers:' .. id end
local function progress_history_key(id) return PREFIX .. 'progress_history:' .. id end
local function log_key(id) return PREFIX .. 'log:' .. id end
local function bans_key(node) return PREFIX .. 'bans:' .. node end
local function index_key(status) return PREFIX .. 'jobs:' .. status end
local function label_key(label) return PREFIX .. 'label:' .. label end
local function node_key(node) return PREFIX .. 'node:' .. node end

local function int(x) return string.format('%.0f', x) end

-- Wall time in ms and µs: what the world is shown. now: the logical clock in ms, which deadlines are in.
local wall, wall_us, now, last_fence

-- The logical clock follows TIME, never goes back, and advances at most MAX_CLOCK_STEP_MS between two calls:
-- a forward jump, a restart or a frozen server lengthens leases instead of expiring all of them at once.
-- Returns the schema version of the queue.
local function read_clock()
  local time = redis.call('TIME')
  wall_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
  if VIRTUAL_CLOCK then
    local virtual_ms = redis.call('GET', PREFIX .. 'virtual_clock')
    if virtual_ms then wall_us = tonumber(virtual_ms) * 1000 end
  end
  wall = math.floor(wall_us / 1000)
  local last = redis.call('HMGET', META, 'wall', 'clock', 'schema', 'fence')
  last_fence = tonumber(last[4] or '0')
  if not last[1] then
    now = wall
    redis.call('HSET', META, 'schema', SCHEMA, 'wall', int(wall), 'clock', int(now))
    return SCHEMA
  end
  now = tonumber(last[2])
  local step = wall - tonumber(last[1])
  if step ~= 0 then
    now = now + math.max(0, math.min(step, MAX_CLOCK_STEP_MS))
    redis.call('HSET', META, 'wall', int(wall), 'clock', int(now))
  end
  return tonumber(last[3])
end

-- The set that a live job is in: exactly one of four.
local function home_of(f)
  if f.attempt_state == 'held' then return LEASED end
  if f.hold then return ON_HOLD end
  if f.due then return DELAYED end
  return WAITING
end

-- A job is its hash (job.f, as strings) and what scripts reckon with. Changes are collected by put and drop,
-- and written once, by save; its set is left at once.
local function read_job(id)
  local flat = redis.call('HGETALL', job_key(id))
  if #flat == 0 then return nil end
  local f = {}
  for i = 1, #flat, 2 do f[flat[i]] = flat[i + 1] end
  local status = f.status or 'pending'
  local live = status == 'pending' or status == 'running'
  return {
    id = id, f = f, changed = {}, status = status, live = live, home = live and home_of(f),
    attempt = tonumber(f.attempt or '0'), failures = tonumber(f.failures or '0'),
    lease_ms = tonumber(f.lease_ms or DEFAULT_LEASE_MS),
    max_failures = tonumber(f.max_failures or DEFAULT_MAX_FAILURES),
  }
end

local function put(job, name, value)
  job.f[name] = value
  job.changed[name] = true
end

local function drop(job, name)
  if job.f[name] then
    job.f[name] = nil
    job.changed[name] = true
  end
end

local function save(job)
  local written, dropped = {}, {}
  for name in pairs(job.changed) do
    if job.f[name] then
      written[#written + 1] = name
      written[#written + 1] = job.f[name]
    else
      dropped[#dropped + 1] = name
    end
  end
  if #written > 0 then redis.call('HSET', job_key(job.id), unpack(written)) end
  if #dropped > 0 then redis.call('HDEL', job_key(job.id), unpack(dropped)) end
  job.changed = {}
end

local function not_found(id) return redis.error_reply('NOTFOUND ' .. id) end
local function lease_lost(reason) return redis.error_reply('LEASELOST ' .. reason) end
local function conflict(status) return redis.error_reply('CONFLICT ' .. status) end

-- What the callers read back: the hash of the job and its definition.
local function reply(job)
  local flat = {}
  for name, value in pairs(job.f) do
    flat[#flat + 1] = name
    flat[#flat + 1] = value
  end
  return {job.id, flat, redis.call('GET', spec_key(job.id))}
end

local function count(counter, by) redis.call('HINCRBY', COUNTERS, counter, by or 1) end

-- An entry has one field, because each field of a write costs twice: here, and in what is sent on. A script
-- trims the stream once: it is no more than a batch longer.
local trimmed = false
local function tell(job, kind, node)
  local event = table.concat(
    {kind, job.id, job.attempt, job.status, int(wall), node or job.f.node or ''}, '\n')
  if trimmed then
    redis.call('XADD', EVENTS, '*', 'event', event)
  else
    redis.call('XADD', EVENTS, 'MAXLEN', '~', MAX_EVENTS, '*', 'event', event)
    trimmed = true
  end
end

local function emit(job, kind, node)
  tell(job, kind, node)
  count(kind)
end

local became_waiting = 0
local function announce()
  if became_waiting > 0 then redis.call('PUBLISH', WAKE_CHANNEL, QUEUE .. ' ' .. became_waiting) end
end

local function each_line(text, visit)
  for line in string.gmatch(text or '', '[^\n]+') do visit(line) end
end

local function waiting_score(job)
  local place = tonumber(job.f.place)
  return job.status == 'pending' and place + NEVER_STARTED or place
end

-- A ban's score is the waiting score of its job while that waits, and its negative while it does not: the
-- positive part of a bans zset is then a subset of the waiting zset, in the same order.
local function score_bans(job, sign)
  if not job.f.bans then return end
  local score = int(sign * waiting_score(job))
  each_line(job.f.bans, function(node) redis.call('ZADD', bans_key(node), score, job.id) end)
end

local function enter(job, home, score)
  redis.call('ZADD', home, score, job.id)
  job.home = home
end

local function leave(job)
  if job.home then redis.call('ZREM', job.home, job.id) end
  job.home = nil
end

-- A live job that nobody holds goes where it belongs: on hold, delayed until it is due, or waiting.
local function settle(job)
  local due = tonumber(job.f.due or '0')
  if job.f.hold then
    enter(job, ON_HOLD, job.f.order)
    score_bans(job, -1)
  elseif due > wall then
    enter(job, DELAYED, int(due))
    score_bans(job, -1)
  else
    drop(job, 'due')
    enter(job, WAITING, int(waiting_score(job)))
    score_bans(job, 1)
    became_waiting = became_waiting + 1
  end
end

local function park(job)
  leave(job)
  settle(job)
end

local function set_status(job, status)
  redis.call('ZREM', index_key(job.status), job.id)
  redis.call('ZADD', index_key(status), job.f.order, job.id)
  job.status, job.live = status, status == 'pending' or status == 'running'
  if status == 'pending' then drop(job, 'status') else put(job, 'status', status) end
end

-- The holder is alive: its lease lasts a full lease time from now.
local function renew(job)
  if job.f.attempt_state == 'expired' then -- nobody has taken it: a waiting job is not taken from a live node
    leave(job)
    score_bans(job, -1)
    put(job, 'attempt_state', 'held')
    drop(job, 'expired')
    drop(job, 'due') -- a failure by hand may have made it pause
    emit(job, 'revived')
  end
  enter(job, LEASED, int(now + job.lease_ms))
  redis.call('SET', heartbeat_key(job.id), job.attempt .. ' ' .. job.f.node, 'PX', job.lease_ms)
  put(job, 'heartbeat', int(wall))
end

-- Ends the open attempt for good; details is what else its record tells, and becomes that. Its secret stays in the
-- hash, so that a repeated report is recognized.
local function close_attempt(job, outcome, ended, details)
  local f = job.f
  local record = details or {}
  record.attempt, record.node, record.outcome = job.attempt, f.node, outcome
  record.start, record['end'] = tonumber(f.attempt_started), tonumber(ended)
  record.last_heartbeat = tonumber(f.heartbeat)
  if redis.call('RPUSH', attempts_key(job.id), cjson.encode(record)) > MAX_ATTEMPTS then
    redis.call('LTRIM', attempts_key(job.id), -MAX_ATTEMPTS, -1)
  end
  redis.call('DEL', heartbeat_key(job.id))
  redis.call('HDEL', GRANTS, f.secret)
  count('attempts_' .. outcome)
  if outcome == 'interrupted' then -- at most: nobody tells us yet what its last checkpoint saved
    count('lost_ms', math.max(0, tonumber(f.heartbeat) - tonumber(f.attempt_started)))
  end
  drop(job, 'attempt_state')
  drop(job, 'expired')
  drop(job, 'run_until')
  put(job, 'outcome', outcome)
end

-- Closes the open attempt of a job that somebody else ends or takes: it was interrupted if its lease had expired.
local function close_for(job, outcome)
  if job.f.attempt_state == 'held' then
    close_attempt(job, outcome, wall)
  elseif job.f.attempt_state == 'expired' then
    close_attempt(job, 'interrupted', job.f.expired)
  end
end

-- The end of a live job in a terminal status. Bans end with their job.
local function end_job(job, status)
  leave(job)
  each_line(job.f.bans, function(node) redis.call('ZREM', bans_key(node), job.id) end)
  set_status(job, status)
  put(job, status, int(wall))
  drop(job, 'due')
  drop(job, 'hold')
  emit(job, status)
end

local function cancel_job(job)
  close_for(job, 'canceled')
  end_job(job, 'canceled')
  save(job)
end

local function purge_job(job)
  local id, f = job.id, job.f
  leave(job)
  if job.live then each_line(f.bans, function(node) redis.call('ZREM', bans_key(node), id) end) end
  if f.attempt_state then redis.call('HDEL', GRANTS, f.secret) end
  redis.call('ZREM', index_key(job.status), id)
  each_line(f.labels, function(label) redis.call('ZREM', label_key(label), id) end)
  if f.node then redis.call('ZREM', node_key(f.node), id) end -- what other nodes ran ends by its TTL
  redis.call('DEL', job_key(id), spec_key(id), attempts_key(id), heartbeat_key(id), log_key(id), progress_key(id),
    progress_history_key(id), transfers_key(id))
  emit(job, 'purged')
end

-- Counts a failure of the open attempt, if there is one: ends the job when that was the last one allowed,
-- otherwise puts it back, after a pause that doubles with each failure when its owner asked for one.
local function count_failure(job, event, node)
  job.failures = job.failures + 1
  put(job, 'failures', job.failures)
  if job.failures >= job.max_failures then
    if job.f.attempt_state then close_attempt(job, 'superseded', job.f.expired) end
    end_job(job, 'failed')
    return
  end
  local backoff_ms = tonumber(job.f.retry_backoff_ms or '0')
  if backoff_ms > 0 then
    local pause_ms = math.min(backoff_ms * 2 ^ math.min(job.failures - 1, 30), MAX_BACKOFF_MS)
    -- A user may report by hand on a job that waits for a later time still.
    put(job, 'due', int(math.max(wall + pause_ms, tonumber(job.f.due or '0'))))
  end
  park(job)
  emit(job, event, node)
end

-- The holder's attempt failed: it is closed, its node banned from the job, and the failure counted.
local function fail_attempt(job, outcome, details)
  close_attempt(job, outcome, wall, details)
  put(job, 'bans', job.f.bans and (job.f.bans .. '\n' .. job.f.node) or job.f.node)
  count_failure(job, outcome)
end

-- Puts back jobs whose deadline has passed, at most limit: interruptions, which never count as failures.
local function reap(limit)
  local expired = 0
  local ids = redis.call('ZRANGEBYSCORE', LEASED, '-inf', int(now), 'WITHSCORES', 'LIMIT', 0, limit)
  for i = 1, #ids, 2 do
    local id = ids[i]
    local left_ms = redis.call('PTTL', heartbeat_key(id))
    local job = read_job(id)
    if left_ms > job.lease_ms then -- the wall clock went back: TTLs are ends on it
      left_ms = job.lease_ms
      redis.call('PEXPIRE', heartbeat_key(id), left_ms)
    end
    if left_ms > 0 then
      redis.call('ZADD', LEASED, int(now + left_ms), id)
    else
      put(job, 'attempt_state', 'expired')
      put(job, 'expired', int(wall - (now - tonumber(ids[i + 1]))))
      redis.call('DEL', heartbeat_key(id))
      park(job)
      emit(job, 'interrupted')
      save(job)
      expired = expired + 1
    end
  end
  return expired
end

-- Lets delayed jobs that are due wait for a node, at most limit.
local function promote(limit)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', DELAYED, '-inf', int(wall), 'LIMIT', 0, limit)) do
    local job = read_job(id)
    park(job)
    save(job)
  end
end

-- Whether the caller speaks for the last attempt: by the lease that it shows, else by its node's name.
-- The secret alone would not do: a poll that comes once more when its attempt is long over has the same one.
local function speaks_for(job, lease, node)
  if job.attempt == 0 then return false end
  if lease ~= '' then return lease == job.f.fence .. '.' .. job.f.secret end
  return node == job.f.node
end

-- Why a caller that does not speak for the last attempt is refused, in one word.
local function refusal(job, lease, node)
  if lease ~= '' then return job.attempt > 1 and 'superseded' or 'not_holder' end
  local records = redis.call('LRANGE', attempts_key(job.id), 0, -1)
  for _, record in ipairs(records) do
    if cjson.decode(record).node == node then return 'superseded' end
  end
  local closed = job.attempt - (job.f.attempt_state and 1 or 0)
  if closed > #records then return 'superseded' end -- the oldest records are gone: it may be one of them
  return 'not_holder'
end

-- An older process must not work on a layout that it does not know.
if read_clock() > SCHEMA then return redis.error_reply('NEWER ' .. SCHEMA) end
