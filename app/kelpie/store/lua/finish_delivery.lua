-- Takes the report of how a try ended. A report that comes twice, or after another one, changes nothing.
--
-- KEYS
--   1   users  when each user has his next turn
-- ARGV
--   1   id          the delivery
--   2   claim       number of the claim
--   3   outcome     delivered, failed, refused, dropped, or retry
--   4   code        status of the answer; empty: none came
--   5   problem     what went wrong, in words; empty: nothing
--   6   retry_ms    of retry: the pause before the next try, ms
--   7   away        1: the receiver is down or overloaded, so that other deliveries to it wait too; else 0
--   8   patience    tries in a row that find it so before they wait
--   9   pause_ms    how long they wait at first, ms; twice as long after each further try
--   10  longest_ms  how long they wait at last, ms
--   11  keep_ms     how long a settled delivery is kept, ms
--   12  keep_count  settled deliveries of one user that are kept
-- Returns
--   1, or 0 when the report came too late

local id, claim, outcome, code, problem = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local retry_ms, away, patience = tonumber(ARGV[6]), ARGV[7] == '1', tonumber(ARGV[8])
local pause_ms, longest_ms = tonumber(ARGV[9]), tonumber(ARGV[10])
local keep_ms, keep_count = tonumber(ARGV[11]), tonumber(ARGV[12])

local delivery = read_delivery(id)
if not delivery or delivery.status ~= 'queued' or delivery.reported == claim then return 0 end
-- Whatever became of a claim that ended, what was delivered is delivered.
if delivery.claim ~= claim and outcome ~= 'delivered' then return 0 end
redis.call('HSET', delivery_key(id), 'reported', claim)
note_attempt(delivery, code, problem)

local health = health_key(delivery.user, delivery.receiver)
local open_at
if away then
  local failures = redis.call('HINCRBY', health, 'failures', 1)
  if failures >= patience then
    open_at = now + math.min(longest_ms, pause_ms * 2 ^ math.min(failures - patience, 30))
    redis.call('HSET', health, 'until', int(open_at))
  end
  redis.call('PEXPIRE', health, int(4 * longest_ms))
elseif code ~= '' then -- it answers
  redis.call('DEL', health)
  open_at = now
end
local lanes = lanes_key(delivery.user)
if open_at and redis.call('ZSCORE', lanes, delivery.receiver) then
  redis.call('ZADD', lanes, 'LT', int(open_at), delivery.receiver)
  redis.call('ZADD', USERS, 'LT', int(open_at), delivery.user)
end

if outcome == 'retry' then
  leave_queue(delivery)
  enter_lane(delivery, now + retry_ms)
else
  settle(delivery, outcome, keep_ms, keep_count)
end
return 1
