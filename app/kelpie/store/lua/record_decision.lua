-- Keeps a decision about a container group, newest first; one like the last is only counted.
--
-- KEYS
--   1   rule       the hash of the rule that it was made by
--   2   decisions  entries "first last count decision"; the times in ms
-- ARGV
--   1   decision  what was decided, as JSON without its time
--   2   time      in ms
--   3   scaled    1 when the replica count was changed, else 0
--   4   limit     decisions that are kept, at most
-- Returns
--   1, or 0 when the rule is gone

local decision, time, scaled, limit = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local first, count = time, 1
local newest = redis.call('LINDEX', KEYS[2], 0)
if newest and scaled == '0' then
  local began, times, same = string.match(newest, '^(%d+) %d+ (%d+) (.*)$')
  if same == decision then
    first, count = began, tonumber(times) + 1
  end
end
local entry = first .. ' ' .. time .. ' ' .. count .. ' ' .. decision
if count > 1 then
  redis.call('LSET', KEYS[2], 0, entry)
else
  redis.call('LPUSH', KEYS[2], entry)
  redis.call('LTRIM', KEYS[2], 0, tonumber(limit) - 1)
end
if scaled == '1' then redis.call('HSET', KEYS[1], 'scaled', time) end
return 1
