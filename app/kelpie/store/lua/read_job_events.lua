-- Reads the events of one job from the stream of its queue, which holds those of all of its jobs.
--
-- KEYS
--   1   events  the stream
-- ARGV
--   1   job    the job
--   2   first  where to begin, as XRANGE takes it
--   3   last   where to end, likewise
--   4   scan   entries that are looked at, at most
--   5   limit  events that are returned, at most
-- Returns
--   {id of the last entry that was looked at, or empty at the end; entries of the job}

local job, first, last, scan, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local entries = redis.call('XRANGE', KEYS[1], first, last, 'COUNT', scan)
local found = {}
for _, entry in ipairs(entries) do
  if string.find(entry[2][2], '\n' .. job .. '\n', 1, true) then found[#found + 1] = entry end
  if #found >= limit then return {entry[1], found} end
end
if #entries < scan then return {'', found} end
return {entries[#entries][1], found}
