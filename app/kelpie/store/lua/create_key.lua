-- Adds an API key to a user. The same key again replaces what was kept of it.
--
-- KEYS
--   1   user       the user's hash
--   2   user_keys  digests of the user's keys
--   3   api_key    the key's hash
-- ARGV
--   1   digest      sha256 of the key
--   2   user_id     id of the user
--   3   org_name    organization that the key is bound to
--   4   project     project that the key is bound to
--   5   created     time in ms
--   6   origin      environment or request
--   7   prefix      how the key begins; empty: not kept
--   8   name        what the user calls it; empty: nothing
--   9   scopes      what it is limited to, separated by spaces; empty: nothing
--   10  ttl_ms      how long it lives in ms; 0: for ever
--   11  limit       keys that a user may have, at most; 0: any number
--   12  key_prefix  what the name of each key's hash begins with, before the digest
-- Returns
--   1

local digest, user_id, org_name, project = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local created, origin, prefix, name, scopes = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local ttl_ms, limit, key_prefix = ARGV[10], ARGV[11], ARGV[12]
local username = redis.call('HGET', KEYS[1], 'username')
if not username then return redis.error_reply('NOTFOUND ' .. user_id) end
ttl_ms, limit = tonumber(ttl_ms), tonumber(limit)
if limit > 0 and redis.call('SCARD', KEYS[2]) >= limit then
  for _, old in ipairs(redis.call('SMEMBERS', KEYS[2])) do -- expired ones have left their digests
    if redis.call('EXISTS', key_prefix .. old) == 0 then redis.call('SREM', KEYS[2], old) end
  end
  if redis.call('SCARD', KEYS[2]) >= limit then return redis.error_reply('CONFLICT full') end
end
redis.call('SADD', KEYS[2], digest)
redis.call('HSET', KEYS[3], 'user_id', user_id, 'username', username, 'org_name', org_name,
  'project_name', project, 'created', created, 'origin', origin)
if prefix ~= '' then redis.call('HSET', KEYS[3], 'prefix', prefix) end
if name ~= '' then redis.call('HSET', KEYS[3], 'name', name) end
if scopes ~= '' then redis.call('HSET', KEYS[3], 'scopes', scopes) end
if ttl_ms > 0 then
  redis.call('HSET', KEYS[3], 'expires', string.format('%.0f', tonumber(created) + ttl_ms))
  redis.call('PEXPIRE', KEYS[3], string.format('%.0f', ttl_ms))
end
return 1
