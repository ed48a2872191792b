"""Every key that Kelpie keeps in Redis: its name, type, meaning and lifetime.

Keys of a queue share a hash tag, so that one script touches one slot of a cluster. ``lua/prelude.lua`` builds
the same names from the name of ``meta``; a test holds that both agree. No key expires unless a TTL is given.

====================================  ======  ==============================================================
key                                   type    meaning
====================================  ======  ==============================================================
kelpie:{queue}:meta                   hash    see META_FIELDS
kelpie:{queue}:waiting                zset    claimable jobs by waiting score: resumed before never started,
                                              then priority, then age; a job that comes back keeps its place
kelpie:{queue}:leased                 zset    leased jobs by deadline, in ms of the logical clock
kelpie:{queue}:grants                 hash    hash of a lease's secret → job; one field per open attempt
kelpie:{queue}:jobs:<status>          zset    jobs in that status by order of creation, in µs; a job is in
                                              exactly one of the five
kelpie:{queue}:job:<id>               hash    see JOB_FIELDS
kelpie:{queue}:spec:<id>              string  the definition: JSON, or its zlib stream where that is smaller
kelpie:{queue}:attempts:<id>          list    one JSON record per closed attempt, the last 1,000
kelpie:{queue}:heartbeat:<id>         string  attempt and node; TTL = lease time, set anew by each heartbeat
kelpie:{queue}:bans:<node>            zset    live jobs that ban the node; score = the job's waiting score
                                              while it waits, negative while it is leased
kelpie:{queue}:events                 stream  what happened, the last 100,000 or so; see records.Event
kelpie:{queue}:counters               hash    what has happened since the queue's first job; see metrics.py
kelpie:{registry}:queue_numbers       hash    queue → number
kelpie:{registry}:queue_names         hash    number → JSON [user id, container group id]
kelpie:{registry}:user_queues:<id>    set     numbers of the queues of a user
kelpie:{users}:names                  hash    username → user id
kelpie:{users}:user:<id>              hash    username, created (ms), webhook_secret
kelpie:{users}:user_keys:<id>         set     digests of the API keys of a user
kelpie:{users}:key:<sha256>           hash    user_id, username, org_name, project_name, created (ms), origin
kelpie:{metrics}:requests             hash    what all API processes have counted; see metrics.py
kelpie:{metrics}:processes            hash    API process → number of its last report, open polls, time (s)
kelpie:{limits}:<minute>              hash    what was spent of each rate limit; TTL 2 minutes
====================================  ======  ==============================================================

``kelpie:wake`` is a channel: ``<queue number> <jobs that became waiting>``.
"""

from __future__ import annotations

from urllib.parse import quote

WAKE_CHANNEL = "kelpie:wake"

META_FIELDS = {
    "schema": "version of this layout",
    "wall": "the server's time when a script last ran, ms",
    "clock": "the logical clock at that time, ms",
    "sequence": "number of the last job submitted",
    "order": "order of creation of the last job submitted, µs",
    "fence": "fencing token of the last lease",
    "relay": "id of the last event that the relay has passed on",
}

JOB_FIELDS = {
    "status": "absent: pending",
    "created": "ms",
    "place": "place among the waiting jobs of its class: priority, then sequence",
    "max_failures": "absent: 3",
    "lease_ms": "how long a lease lasts without a heartbeat, ms; absent: 60000",
    "failures": "attempts that failed; absent: 0",
    "heartbeats": "heartbeats counted, one per interval; absent: 0",
    "bans": "nodes banned from the job, separated by newlines",
    "started": "first lease, ms",
    "completed": "ms",
    "canceled": "ms",
    "failed": "ms",
    "heartbeat": "last sign of life, ms",
    "by_hand": "name of the last report that a user made by hand, so that a repeat is recognized",
    # of the last attempt
    "attempt": "its number; absent: 0, never leased",
    "attempt_state": "held, or expired and not taken by another node; absent: closed",
    "attempt_started": "ms",
    "expired": "when its lease expired, ms",
    "node": "its node",
    "secret": "sha256 of the secret of its lease",
    "fence": "its fencing token",
    "counted": "when a heartbeat was last counted, ms of the logical clock",
    "outcome": "how it was closed",
}

QUEUE_NUMBERS = "kelpie:{registry}:queue_numbers"
QUEUE_NAMES = "kelpie:{registry}:queue_names"
USER_NAMES = "kelpie:{users}:names"
REQUESTS = "kelpie:{metrics}:requests"
PROCESSES = "kelpie:{metrics}:processes"
API_KEY_PREFIX = "kelpie:{users}:key:"


def spent(minute: int) -> str:
    """What was spent of each rate limit in a minute since 1970 UTC."""
    return f"kelpie:{{limits}}:{minute}"


def user_queues(user_id: str) -> str:
    """The numbers of a user's queues."""
    return f"kelpie:{{registry}}:user_queues:{user_id}"


def user(user_id: str) -> str:
    """What is known of a user."""
    return f"kelpie:{{users}}:user:{user_id}"


def user_keys(user_id: str) -> str:
    """The digests of a user's API keys."""
    return f"kelpie:{{users}}:user_keys:{user_id}"


def api_key(digest: str) -> str:
    """What is known of an API key."""
    return f"{API_KEY_PREFIX}{digest}"


def queue_name(user_id: str, container_group_id: str) -> str:
    """The name of a queue: its hash tag. Percent-encoded, so that no name can reach into another."""
    return f"{quote(user_id, safe='')}/{quote(container_group_id, safe='')}"


class QueueKeys:
    """The names of the keys of one queue."""

    def __init__(self, user_id: str, container_group_id: str) -> None:
        self.prefix = f"kelpie:{{{queue_name(user_id, container_group_id)}}}:"
        self.meta = f"{self.prefix}meta"
        self.waiting = f"{self.prefix}waiting"
        self.leased = f"{self.prefix}leased"
        self.grants = f"{self.prefix}grants"
        self.events = f"{self.prefix}events"
        self.counters = f"{self.prefix}counters"

    def job(self, job_id: str) -> str:
        """The job's mutable state."""
        return f"{self.prefix}job:{job_id}"

    def spec(self, job_id: str) -> str:
        """The job's definition."""
        return f"{self.prefix}spec:{job_id}"

    def attempts(self, job_id: str) -> str:
        """The job's closed attempts."""
        return f"{self.prefix}attempts:{job_id}"

    def heartbeat(self, job_id: str) -> str:
        """The sign of life of the job's holder."""
        return f"{self.prefix}heartbeat:{job_id}"

    def bans(self, node: str) -> str:
        """The live jobs that ban a node."""
        return f"{self.prefix}bans:{node}"

    def index(self, status: str) -> str:
        """The jobs in a status."""
        return f"{self.prefix}jobs:{status}"
