-- Adds jobs to the queue, all or none. A job whose id exists already is left alone, so a repeat is harmless.
--
-- KEYS
--   1   meta
-- ARGV
--   1   queue   number of the queue
--   2…  jobs    of each: id, priority, max_failures, lease_ms, spec
-- Returns
--   the time of creation of each job in ms, in order

local created = {}
local last_order = tonumber(redis.call('HGET', META, 'order') or '0')
for i = 2, #ARGV, 5 do
  local id, priority, max_failures = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local lease_ms, spec = tonumber(ARGV[i + 3]), ARGV[i + 4]
  local known = redis.call('HGET', job_key(id), 'created')
  if known then
    created[#created + 1] = known
  else
    local sequence = redis.call('HINCRBY', META, 'sequence', 1)
    local job = {id = id, status = 'pending', attempt = 0, place = (255 - priority) * PRIORITY_STEP + sequence}
    -- Strictly increasing, so that lists show the jobs of a batch in their order.
    last_order = math.max(last_order + 1, wall_us)
    local fields = {'created', int(math.floor(last_order / 1000)), 'place', int(job.place)}
    if max_failures ~= DEFAULT_MAX_FAILURES then
      fields[#fields + 1] = 'max_failures'
      fields[#fields + 1] = int(max_failures)
    end
    if lease_ms ~= DEFAULT_LEASE_MS then
      fields[#fields + 1] = 'lease_ms'
      fields[#fields + 1] = int(lease_ms)
    end
    redis.call('HSET', job_key(id), unpack(fields))
    redis.call('SET', spec_key(id), spec)
    redis.call('ZADD', index_key('pending'), int(last_order), id)
    enter_waiting(job)
    emit(job, 'submitted')
    created[#created + 1] = fields[2]
  end
end
redis.call('HSET', META, 'order', int(last_order))
announce()
return created
