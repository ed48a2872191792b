-- Adds jobs to the queue, all or none. A job whose id exists already is left alone, so a repeat is harmless.
--
-- KEYS
--   1   meta
-- ARGV
--   1   queue   number of the queue
--   2…  jobs    of each: id, priority, spec, options: JSON of what differs from the defaults of
--               max_failures, lease_ms, due, retry_backoff_ms, max_runtime_ms, and labels as [name=value]
-- Returns
--   of each job in order: its time of creation in ms, or 0 if it existed before

-- Of a whole batch in one call: a call, and each of its values, costs more than what it does.
local job_keys, specs, pending, waiting, answer = {}, {}, {}, {}, {}
for i = 2, #ARGV, 4 do job_keys[#job_keys + 1] = job_key(ARGV[i]) end
local some_exist = redis.call('EXISTS', unpack(job_keys)) > 0
local last = redis.call('HMGET', META, 'sequence', 'order')
local sequence, last_order = tonumber(last[1] or '0'), tonumber(last[2] or '0')
local new = {status = 'pending', attempt = 0, f = {}} -- the job, as far as its event tells it
for i = 2, #ARGV, 4 do
  local id, priority, spec, options = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3]
  if some_exist and redis.call('EXISTS', job_key(id)) == 1 then
    answer[#answer + 1] = 0
  else
    sequence = sequence + 1
    -- Strictly increasing, so that lists show the jobs of a batch in their order.
    last_order = math.max(last_order + 1, wall_us)
    local order, place = int(last_order), (255 - priority) * PRIORITY_STEP + sequence
    local fields, delayed = {'order', order, 'place', int(place)}, false
    if options ~= '' then
      local given = cjson.decode(options)
      if given.labels then
        for _, label in ipairs(given.labels) do redis.call('ZADD', label_key(label), order, id) end
        fields[#fields + 1], fields[#fields + 2] = 'labels', table.concat(given.labels, '\n')
        given.labels = nil
      end
      delayed = given.due and given.due > wall
      if delayed then redis.call('ZADD', DELAYED, int(given.due), id) else given.due = nil end
      for name, value in pairs(given) do
        fields[#fields + 1], fields[#fields + 2] = name, int(value)
      end
    end
    redis.call('HSET', job_key(id), unpack(fields))
    specs[#specs + 1], specs[#specs + 2] = spec_key(id), spec
    pending[#pending + 1], pending[#pending + 2] = order, id
    if not delayed then waiting[#waiting + 1], waiting[#waiting + 2] = int(NEVER_STARTED + place), id end
    new.id = id
    tell(new, 'submitted')
    answer[#answer + 1] = math.floor(last_order / 1000)
  end
end
if #pending > 0 then
  redis.call('HSET', META, 'sequence', int(sequence), 'order', int(last_order))
  redis.call('MSET', unpack(specs))
  redis.call('ZADD', index_key('pending'), unpack(pending))
  count('submitted', #pending / 2)
end
if #waiting > 0 then
  redis.call('ZADD', WAITING, unpack(waiting))
  became_waiting = #waiting / 2
end
announce()
return answer
