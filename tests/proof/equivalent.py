"""Mutants that change nothing that anybody could notice, by the reason why.

A script that is written anew brings mutants of its own: those listed here that exist no more must go.
"""

from __future__ import annotations

Key = tuple[str, str, str]
"""Script, line before and line after."""

_BY_REASON: dict[str, tuple[Key, ...]] = {
    "of what is found only the first is looked at": (
        (
            "append_log",
            "local newest = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]",
            "local newest = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 2)[1]",
        ),
        (
            "append_log",
            "local oldest = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]",
            "local oldest = redis.call('XRANGE', key, '-', '+', 'COUNT', 2)[1]",
        ),
    ),
    "Lua takes the first character for the zeroth": (
        (
            "prelude",
            "local PREFIX = string.sub(META, 1, -5)",
            "local PREFIX = string.sub(META, 0, -5) -- every key of a queue begins alike, so that all are in one slot",
        ),
    ),
    "still far above the number of any job": (
        (
            "prelude",
            "local NEVER_STARTED, PRIORITY_STEP = 2 ^ 52, 2 ^ 44",
            "local NEVER_STARTED, PRIORITY_STEP = 2 ^ 52, 2 ^ 43",
        ),
    ),
    "both clocks show the same when a queue is first used": (
        (
            "prelude",
            "redis.call('HSET', META, 'schema', SCHEMA, 'wall', int(wall), 'clock', int(now))",
            "redis.call('HSET', META, 'schema', SCHEMA, 'wall', int(now), 'clock', int(now))",
        ),
        (
            "prelude",
            "redis.call('HSET', META, 'schema', SCHEMA, 'wall', int(wall), 'clock', int(now))",
            "redis.call('HSET', META, 'schema', SCHEMA, 'wall', int(wall), 'clock', int(wall))",
        ),
    ),
    "what is written is what stands there already": (
        ("prelude", "if step ~= 0 then", "if true then"),
        ("prelude", "job.changed = {}", ""),
    ),
    "only the names of the changed fields matter": (
        ("prelude", "job.changed[name] = true", "job.changed[name] = false"),
        ("prelude", "job.changed[name] = true", "job.changed[name] = false"),
    ),
    "a field that is not there is dropped once more": (
        ("prelude", "if job.f[name] then", "if true then"),
        ("prelude", "if not job.f.bans then return end", "if false then return end"),
    ),
    "names and values come in pairs": (
        (
            "prelude",
            "if #written > 0 then redis.call('HSET', job_key(job.id), unpack(written)) end",
            "if #written > 1 then redis.call('HSET', job_key(job.id), unpack(written)) end",
        ),
        ("submit", "if #pending > 0 then", "if #pending > 1 then"),
        ("submit", "if #waiting > 0 then", "if #waiting > 1 then"),
    ),
    "any score that is not positive says that the job does not wait": (
        ("prelude", "score_bans(job, -1)", "score_bans(job, -2)"),
        ("prelude", "score_bans(job, -1)", "score_bans(job, -0)"),
        ("prelude", "score_bans(job, -1)", "score_bans(job, -2)"),
        ("prelude", "score_bans(job, -1)", "score_bans(job, -0)"),
        ("prelude", "score_bans(job, -1)", "score_bans(job, -2)"),
        ("prelude", "score_bans(job, -1)", "score_bans(job, -0)"),
        ("lease", "score_bans(job, -1)", "score_bans(job, -2)"),
        ("lease", "score_bans(job, -1)", "score_bans(job, -0)"),
    ),
    "the default is written out; it only takes memory": (
        (
            "prelude",
            "if status == 'pending' then drop(job, 'status') else put(job, 'status', status) end",
            "if false then drop(job, 'status') else put(job, 'status', status) end",
        ),
    ),
    "nobody asks after the move whether the job lives": (
        (
            "prelude",
            "job.status, job.live = status, status == 'pending' or status == 'running'",
            "job.status, job.live = status, status ~= 'pending' or status == 'running'",
        ),
        (
            "prelude",
            "job.status, job.live = status, status == 'pending' or status == 'running'",
            "job.status, job.live = status, status == 'pending' or status ~= 'running'",
        ),
        (
            "prelude",
            "job.status, job.live = status, status == 'pending' or status == 'running'",
            "job.status, job.live = status, status == 'pending' and status == 'running'",
        ),
        (
            "prelude",
            "job.status, job.live = status, status == 'pending' or status == 'running'",
            "job.status, job.live = status, status == 'running' or status == 'running'",
        ),
        (
            "prelude",
            "job.status, job.live = status, status == 'pending' or status == 'running'",
            "job.status, job.live = status, status == 'pending' or status == 'pending'",
        ),
    ),
    "each lease of the job sets it anew, and it is read while the attempt is open": (
        ("prelude", "drop(job, 'run_until')", ""),
    ),
    "the bans of a job that has ended are gone already": (
        (
            "prelude",
            "if job.live then each_line(f.bans, function(node) redis.call('ZREM', bans_key(node), id) end) end",
            "if true then each_line(f.bans, function(node) redis.call('ZREM', bans_key(node), id) end) end",
        ),
    ),
    "pauses are whole seconds": (("prelude", "if backoff_ms > 0 then", "if backoff_ms > 1 then"),),
    "times and orders are positive": (
        (
            "prelude",
            "local ids = redis.call('ZRANGEBYSCORE', LEASED, '-inf', int(now), 'WITHSCORES', 'LIMIT', 0, limit)",
            "local ids = redis.call('ZRANGEBYSCORE', LEASED, '(0', int(now), 'WITHSCORES', 'LIMIT', 0, limit)",
        ),
        (
            "purge_queue",
            "local ids = redis.call('ZRANGEBYSCORE', index_key(status), '-inf', last, 'LIMIT', 0, limit - count)",
            "local ids = redis.call('ZRANGEBYSCORE', index_key(status), '(0', last, 'LIMIT', 0, limit - count)",
        ),
        (
            "reap",
            "redis.call('ZREMRANGEBYSCORE', POLLS, '-inf', int(wall - POLLS_KEPT_MS))",
            "redis.call('ZREMRANGEBYSCORE', POLLS, '(0', int(wall - POLLS_KEPT_MS))",
        ),
    ),
    "a second is longer than a day after 17 doublings": (
        (
            "prelude",
            "local pause_ms = math.min(backoff_ms * 2 ^ math.min(job.failures - 1, 30), MAX_BACKOFF_MS)",
            "local pause_ms = math.min(backoff_ms * 2 ^ math.min(job.failures - 1, 31), MAX_BACKOFF_MS)",
        ),
        (
            "prelude",
            "local pause_ms = math.min(backoff_ms * 2 ^ math.min(job.failures - 1, 30), MAX_BACKOFF_MS)",
            "local pause_ms = math.min(backoff_ms * 2 ^ math.min(job.failures - 1, 29), MAX_BACKOFF_MS)",
        ),
    ),
    "the same end is set again": (
        (
            "prelude",
            "if left_ms > job.lease_ms then",
            "if left_ms >= job.lease_ms then -- the wall clock went back: TTLs are ends on it",
        ),
    ),
    "a key that has less than a millisecond to live is looked at once more, or not": (
        ("prelude", "if left_ms > 0 then", "if left_ms >= 0 then"),
        ("prelude", "if left_ms > 0 then", "if left_ms > 1 then"),
    ),
    "the key has expired, or it would not have come to this": (
        ("prelude", "redis.call('DEL', heartbeat_key(id))", ""),
    ),
    "jobs need different numbers in order, not successive ones": (
        (
            "submit",
            "last_order = math.max(last_order + 1, wall_us)",
            "last_order = math.max(last_order + 2, wall_us)",
        ),
        ("submit", "sequence = sequence + 1", "sequence = sequence + 2"),
    ),
    "what follows looks once more, or does once more what it has done": (
        (
            "submit",
            "local some_exist = redis.call('EXISTS', unpack(job_keys)) > 0",
            "local some_exist = redis.call('EXISTS', unpack(job_keys)) >= 0",
        ),
        ("prelude", "trimmed = true", "trimmed = false"),
        ("prelude", "trimmed = true", ""),
        ("prelude", "if trimmed then", "if false then"),
    ),
    "the first of what ZRANGE returns is taken, however much that is": (
        (
            "lease",
            "local first = redis.call('ZRANGE', WAITING, 0, 0)[1]",
            "local first = redis.call('ZRANGE', WAITING, 0, 1)[1]",
        ),
        (
            "lease",
            "local mth = redis.call('ZRANGE', WAITING, m - 1, m - 1, 'WITHSCORES')",
            "local mth = redis.call('ZRANGE', WAITING, m - 1, m + 1, 'WITHSCORES')",
        ),
        (
            "lease",
            "local mth = redis.call('ZRANGE', WAITING, m - 1, m - 1, 'WITHSCORES')",
            "local mth = redis.call('ZRANGE', WAITING, m - 1, m - 0, 'WITHSCORES')",
        ),
        (
            "lease",
            "return redis.call('ZRANGE', WAITING, low - 1, low - 1)[1]",
            "return redis.call('ZRANGE', WAITING, low - 1, low - 0)[1]",
        ),
        (
            "lease",
            "return redis.call('ZRANGE', WAITING, low - 1, low - 1)[1]",
            "return redis.call('ZRANGE', WAITING, low - 1, low + 1)[1]",
        ),
    ),
    "a shortcut: the search finds the same, more slowly": (
        ("lease", "if not first then return nil end", "if false then return nil end"),
        ("lease", "if banned == 0 then return first end", "if false then return first end"),
    ),
    "the search begins with wider bounds, or in other steps, and ends at the same job": (
        ("lease", "local low, high = banned + 1, banned + 1", "local low, high = banned - 1, banned + 1"),
        ("lease", "local low, high = banned + 1, banned + 1", "local low, high = banned + 1, banned - 1"),
        ("lease", "local low, high = banned + 1, banned + 1", "local low, high = banned + 0, banned + 1"),
        ("lease", "local low, high = banned + 1, banned + 1", "local low, high = banned + 1, banned + 0"),
        ("lease", "low, high = 1, 1", "low, high = 0, 1"),
        ("lease", "low, high = 1, 1", "low, high = 1, 2"),
        (
            "lease",
            "while high < banned and not some_allowed(high) do",
            "while high <= banned and not some_allowed(high) do",
        ),
        ("lease", "low, high = high + 1, high * 16", "low, high = high - 1, high * 16"),
        ("lease", "low, high = high + 1, high * 16", "low, high = high + 1, high + 16"),
        ("lease", "low, high = high + 1, high * 16", "low, high = high + 0, high * 16"),
        ("lease", "low, high = high + 1, high * 16", "low, high = high + 1, high * 15"),
        ("lease", "low, high = high + 1, high * 16", "low, high = high + 1, high * 17"),
    ),
    "nobody asks for the outcome of an open attempt, and its end sets it": (
        ("lease", "drop(job, 'outcome')", ""),
    ),
    "reports have random names: no other bears this one": (("requeue", "drop(job, 'by_hand')", ""),),
    "nobody reckons with the number after it was dropped from the hash": (
        ("requeue", "job.failures = 0", ""),
        ("requeue", "job.failures = 0", "job.failures = 1"),
    ),
    "only whether any was lifted matters": (("unban", "lifted = lifted + 1", "lifted = lifted + 2"),),
    "nobody reads the answer: the store has looked before": (
        ("purge", "if not job then return 0 end", "if not job then return 1 end"),
        ("purge", "return 1", "return 2"),
        ("purge", "return 1", "return 0"),
    ),
    "no script moves a job twice; the next one that does may rely on it": (
        ("prelude", "job.home = home", ""),
        ("prelude", "job.home = nil", ""),
    ),
    "there is nothing to cut off yet": (
        (
            "prelude",
            "if redis.call('RPUSH', attempts_key(job.id), cjson.encode(record)) > MAX_ATTEMPTS then",
            "if redis.call('RPUSH', attempts_key(job.id), cjson.encode(record)) >= MAX_ATTEMPTS then",
        ),
    ),
    "fewer or more jobs per call, and as many calls as it takes": (
        ("clear", "if count == 0 then", "if true then"),
        ("purge_queue", "count = count + 1", "count = count + 2"),
        ("purge_queue", "count = count + 1", "count = count - 1"),
        (
            "purge_queue",
            "local ids = redis.call('ZRANGEBYSCORE', index_key(status), '-inf', last, 'LIMIT', 0, limit - count)",
            "local ids = redis.call('ZRANGEBYSCORE', index_key(status), '-inf', last, 'LIMIT', 0, limit + count)",
        ),
    ),
}

EQUIVALENT: dict[Key, str] = {key: reason for reason, keys in _BY_REASON.items() for key in keys}
"""The reason for each."""
