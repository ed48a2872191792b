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

local answer = {}
local last_order = tonumber(redis.call('HGET', META, 'order') or '0')
for i = 2, #ARGV, 4 do
  local id, priority, spec, options = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3]
  local known = redis.call('HGET', job_key(id), 'order')
  if known then
    answer[#answer + 1] = int(math.floor(tonumber(known) / 1000))
    answer[#answer + 1] = 1
  else
    local sequence = redis.call('HINCRBY', META, 'sequence', 1)
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
    redis.call('ZADD', index_key('pending'), job.f.order, id)
    settle(job)
    save(job)
    emit(job, 'submitted')
    answer[#answer + 1] = int(math.floor(last_order / 1000))
    answer[#answer + 1] = 0
  end
end
redis.call('HSET', META, 'order', int(last_order))
announce()
return answer
