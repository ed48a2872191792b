-- Adds jobs to the queue, all or none. A job whose id exists already is left alone, so a repeat is harmless.
--
-- KEYS
--   1   meta
-- ARGV
--   1   queue   number of the queue
--   2…  jobs    of each: id, priority, spec, options: JSON of what differs from the defaults of
--               max_failures, lease_ms, due, retry_backoff_ms, max_runtime_ms, and labels as [name=value]
-- Returns
--   of each job in order: its time of creation in ms, and 1 if it existed before, else 0

local answer, pending, waiting = {}, {}, {} -- the last two as ZADD takes them: one call adds a whole batch
local last = redis.call('HMGET', META, 'sequence', 'order')
local sequence, last_order = tonumber(last[1] or '0'), tonumber(last[2] or '0')
for i = 2, #ARGV, 4 do
  local id, priority, spec, options = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3]
  local known = redis.call('HGET', job_key(id), 'order')
  if known then
    answer[#answer + 1] = int(math.floor(tonumber(known) / 1000))
    answer[#answer + 1] = 1
  else
    sequence = sequence + 1
    -- Strictly increasing, so that lists show the jobs of a batch in their order.
    last_order = math.max(last_order + 1, wall_us)
    local job = {id = id, status = 'pending', attempt = 0, f = {}, changed = {}}
    put(job, 'order', int(last_order))
    put(job, 'place', int((255 - priority) * PRIORITY_STEP + sequence))
    if options ~= '' then
      local given = cjson.decode(options)
      if given.labels then
        for _, label in ipairs(given.labels) do redis.call('ZADD', label_key(label), job.f.order, id) end
        put(job, 'labels', table.concat(given.labels, '\n'))
        given.labels = nil
      end
      for name, value in pairs(given) do put(job, name, int(value)) end
    end
    redis.call('SET', spec_key(id), spec)
    pending[#pending + 1], pending[#pending + 2] = job.f.order, id
    if job.f.due then
      settle(job)
    else
      waiting[#waiting + 1], waiting[#waiting + 2] = int(waiting_score(job)), id
    end
    save(job)
    tell(job, 'submitted')
    answer[#answer + 1] = int(math.floor(last_order / 1000))
    answer[#answer + 1] = 0
  end
end
if #pending > 0 then
  redis.call('HSET', META, 'sequence', int(sequence), 'order', int(last_order))
  redis.call('ZADD', index_key('pending'), unpack(pending))
  count('submitted', #pending / 2)
end
if #waiting > 0 then
  redis.call('ZADD', WAITING, unpack(waiting))
  became_waiting = became_waiting + #waiting / 2
end
announce()
return answer
