-- Deletes what is kept of the deliveries about jobs that were deleted; what still waits goes after its last try.
--
-- KEYS
--   1   users  when each user has his next turn
-- ARGV
--   1   limit  deliveries per call, at most
--   2…  jobs   the jobs
-- Returns
--   how many went; call again until none does

local limit = tonumber(ARGV[1])
local count = 0
for i = 2, #ARGV do
  for _, id in ipairs(redis.call('ZRANGE', job_key(ARGV[i]), 0, limit - count - 1)) do
    local delivery = read_delivery(id)
    if delivery and delivery.status == 'queued' then
      redis.call('HSET', delivery_key(id), 'forget', 1)
      redis.call('ZREM', user_key(delivery.user), id)
    elseif delivery then
      delete_delivery(delivery)
    end
    redis.call('ZREM', job_key(ARGV[i]), id)
    count = count + 1
  end
  if count >= limit then break end
end
return count
