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
kelpie:{queue}:delayed                zset    jobs that wait for a time, by that time in ms
kelpie:{queue}:on_hold                zset    jobs that their owner holds back, by order of creation
kelpie:{queue}:grants                 hash    hash of a lease's secret → job; one field per open attempt
kelpie:{queue}:jobs:<status>          zset    jobs in that status by order of creation, in µs; a job is in
                                              exactly one of the five
kelpie:{queue}:label:<name>=<value>   zset    jobs with that label by order of creation
kelpie:{queue}:node:<node>            zset    the newest 1,000 jobs that the node was given, by order of
                                              creation; TTL: 30 days after the last lease
kelpie:{queue}:job:<id>               hash    see JOB_FIELDS
kelpie:{queue}:spec:<id>              string  the definition, as codec.py packs it
kelpie:{queue}:attempts:<id>          list    the closed attempts as JSON, oldest first, the last 1,000
kelpie:{queue}:log:<id>               stream  what its commands printed, packed by store/logs.py; ids are
                                              attempt and number of the last line; bounded in bytes; TTL
kelpie:{queue}:heartbeat:<id>         string  ``<attempt> <node>`` of the holder; TTL: the lease time; its
                                              absence is what stale looks like from outside
kelpie:{queue}:backlog:<id>           string  what waits for its upload on the job's node: files, bytes, age
                                              of the oldest in s, with blanks; TTL: the lease time
kelpie:{queue}:progress:<id>          string  what its command last said of its progress: when it was told in
                                              ms, attempt, and the report as JSON; see progress.py; 8 KiB at
                                              most, and only of jobs that say something
kelpie:{queue}:transfers:<id>         string  what was moved for the entries of its ``sync``, as its node
                                              last said: JSON with the attempt and when it was told (ms);
                                              see transfers.py; TTL: KELPIE_PROGRESS_DAYS
kelpie:{queue}:progress_history:<id>  list    how its progress was over time, oldest first, as JSON; see
                                              store/progress_history.py; at most 128 points of 512 bytes;
                                              TTL: KELPIE_PROGRESS_DAYS
kelpie:{queue}:bans:<node>            zset    live jobs that ban the node; score = the job's waiting score
                                              while it waits, negative while it does not
kelpie:{queue}:polls                  zset    nodes by the time of their last poll in ms; those of a day
kelpie:{queue}:drained                hash    node that is to be empty → since when, ms; at most 10,000
kelpie:{queue}:counters               hash    see COUNTERS
kelpie:{queue}:events                 stream  what happened, the last 100,000 or so; see records.Event
kelpie:{registry}:schema              string  version of this layout; see migrations.py
kelpie:{registry}:migrating           string  the process that upgrades the layout; TTL: 10 minutes
kelpie:{registry}:queue_numbers       hash    queue → number
kelpie:{registry}:queue_names         hash    number → JSON [user id, container group id]
kelpie:{registry}:user_queues:<id>    set     numbers of the queues of a user
kelpie:{registry}:submit:<id>:<key>   string  sha256 of what a user submitted under an idempotency key (by
                                              the key's sha256); TTL: a day
kelpie:{users}:names                  hash    username → user id
kelpie:{users}:organizations          hash    username → user id, a space and the organization's own id (empty
                                              while unknown), of users who stand for an organization
kelpie:{users}:epoch                  string  how many users of organizations were deleted: what processes
                                              remember of organizations' keys is void when it changes
kelpie:{users}:user:<id>              hash    username, created (ms), webhook_secret; for a while after a
                                              rotation also old_webhook_secret, old_webhook_secret_until (ms)
kelpie:{users}:user_keys:<id>         set     digests of the API keys of a user; may name expired ones
kelpie:{users}:key:<sha256>           hash    see KEY_FIELDS; TTL = its expiry, where it has one
kelpie:{users}:session:<sha256>       hash    a browser's session: key (digest of its API key), expires (ms),
                                              notice (what its next page says), own (1: the key was made for
                                              it, and ends with it); TTL = its end
kelpie:{audit}:all                    stream  who did what, the last 100,000 entries; see audit.py
kelpie:{audit}:user:<id>              stream  what a user did, the last 10,000
kelpie:{rules}:rules                  zset    container groups that have a scaling rule, by its creation in ms
kelpie:{rules}:user_rules:<id>        zset    those of a user
kelpie:{rules}:rule:<group>           hash    see RULE_FIELDS
kelpie:{rules}:decisions:<group>      list    what was decided by the rule, newest first, the last 200:
                                              first and last time (ms), how often in a row, JSON
kelpie:{rules}:groups                 zset    container groups of the local provider, by creation in ms
kelpie:{rules}:group:<id>             hash    see GROUP_FIELDS
kelpie:{rules}:reallocations:<id>     set     nodes of the group that its host is asked to replace
kelpie:{rules}:autoscaler             string  the platform process that scales; TTL = seconds without a sign
kelpie:{webhooks}:delivery:<id>       hash    see DELIVERY_FIELDS; TTL once it is settled
kelpie:{webhooks}:of_user:<id>        zset    deliveries of a user by order of creation; TTL
kelpie:{webhooks}:of_job:<id>         zset    deliveries about a job, likewise; TTL
kelpie:{webhooks}:users               zset    users by the time of their next turn, ms
kelpie:{webhooks}:lanes:<user>        zset    receivers (host and port) of a user, likewise
kelpie:{webhooks}:due:<user>:<host>   zset    deliveries to one receiver by the time of their next try, ms
kelpie:{webhooks}:health:<user>:<h>   hash    a receiver that fails: failures in a row; until when its lane
                                              is closed, ms; TTL
kelpie:{webhooks}:claimed             zset    deliveries that are being tried by the end of their claim, ms
kelpie:{webhooks}:busy                hash    user → how many of these
kelpie:{webhooks}:queued              hash    user → how many deliveries are not settled
kelpie:{webhooks}:sequence            string  number of the last delivery
kelpie:{metrics}:requests             hash    what all API processes have counted; see metrics.py
kelpie:{metrics}:processes            hash    API process → number of its last report, open polls, time (s)
kelpie:{metrics}:history[:<user>]     stream  samples of a user's figures, or of all users', a day of one a
                                              minute; see history.py; TTL: 26 hours
kelpie:{metrics}:sampler              string  the platform process that samples; TTL = seconds without a sign
kelpie:{limits}:<minute>              hash    what was spent of each rate limit; TTL 2 minutes
====================================  ======  ==============================================================

``{queue}`` is the number of the queue: short, because every job's keys begin with it.
``kelpie:wake`` is a channel: ``<queue number> <jobs that became waiting>``.
"""

from __future__ import annotations

from urllib.parse import quote

WAKE_CHANNEL = "kelpie:wake"

META_FIELDS = {
    "schema": "version of the layout of this queue",
    "wall": "the server's time when a script last ran, ms",
    "clock": "the logical clock at that time, ms",
    "sequence": "number of the last job submitted",
    "order": "order of creation of the last job submitted, µs",
    "fence": "fencing token of the last lease",
    "relay": "id of the last event that the relay has passed on",
}

JOB_FIELDS = {
    "status": "absent: pending",
    "order": "time of creation in µs, strictly increasing in its queue",
    "place": "place among the waiting jobs of its class: priority, then sequence",
    "max_failures": "absent: 3",
    "lease_ms": "how long a lease lasts without a heartbeat, ms; absent: 60000",
    "due": "not to be leased before, ms; absent: at once",
    "hold": "1 while its owner holds it back; absent otherwise",
    "retry_backoff_ms": "pause after the first failure, doubled by each further one; absent: none",
    "max_runtime_ms": "how long one attempt may take; absent: for ever",
    "labels": "name=value, separated by newlines",
    "failures": "attempts that failed; absent: 0",
    "heartbeats": "heartbeats counted, one per interval; absent: 0",
    "bans": "nodes banned from the job, separated by newlines",
    "started": "first lease, ms",
    "completed": "ms",
    "canceled": "ms",
    "failed": "ms",
    "heartbeat": "last sign of life, ms",
    "log_bytes": "size of what is kept of its log; absent: 0",
    "by_hand": "name of the last report that a user made by hand, so that a repeat is recognized",
    # of the last attempt
    "attempt": "its number; absent: 0, never leased",
    "attempt_state": "held, or expired and not taken by another node; absent: closed",
    "attempt_started": "ms",
    "run_until": "when it has run for longer than it may, ms of the logical clock",
    "expired": "when its lease expired, ms",
    "node": "its node",
    "secret": "sha256 of the secret of its lease",
    "fence": "its fencing token",
    "counted": "when a heartbeat was last counted, ms of the logical clock",
    "outcome": "how it was closed",
}

COUNTERS = {
    "<event>": "events of that type, see records.EventType",
    "attempts_<outcome>": "attempts that ended so, see job.Outcome",
    "lost_ms": "work of interrupted attempts that was lost, at most: from grant to last sign of life, ms",
}

RULE_FIELDS = {
    "user_id": "whose jobs count",
    "organization": "of the container group",
    "project": "of the container group",
    "container_group_name": "its name when the rule was made",
    "min_replicas": "a count",
    "max_replicas": "a count",
    "idle_threshold_seconds": "how long a finished job still counts, s",
    "created": "ms",
    "updated": "ms",
    "scaled": "when the replica count was last changed, ms; absent: never",
}

GROUP_FIELDS = {
    "name": "what people call it",
    "organization": "whose it is",
    "project": "of that organization",
    "slots": "jobs that one replica runs at once",
    "created": "ms",
    "updated": "ms",
    "state": "running or stopped",
    "replicas": "how many its host is to run while it is running",
    "current": "how many nodes its host has",
    "reported": "when the host last said so, ms",
}

KEY_FIELDS = {
    "user_id": "whose key it is",
    "username": "his name",
    "org_name": "organization that the key is bound to",
    "project_name": "project that the key is bound to",
    "created": "ms",
    "origin": "environment or request",
    "prefix": "how the key begins; absent: a key from the environment",
    "name": "what its user calls it; absent: nothing",
    "scopes": "what it is limited to, separated by spaces; absent: nothing, it is a full key",
    "expires": "ms; absent: never",
    "last_used": "ms, written at most once a minute; absent: never",
}

DELIVERY_FIELDS = {
    "status": "queued, delivered, failed, refused or dropped",
    "user": "whose job it is about",
    "job": "the job",
    "event": "what happened",
    "url": "where it goes",
    "receiver": "host and port of that",
    "body": "the JSON that is sent",
    "order": "its number",
    "created": "ms",
    "ended": "when it was settled, ms",
    "next_try": "ms",
    "tries": "that have begun since it was queued or replayed; absent: 0",
    "claim": "number of its last claim; absent: never claimed",
    "begun": "the last claim whose try began",
    "reported": "the last claim whose end was reported",
    "attempts": "JSON: the last 50 tries, each {time in ms, code of the answer, error}",
    "forget": "its job was deleted: it goes when it is settled",
}

SCHEMA = "kelpie:{registry}:schema"
MIGRATION_LOCK = "kelpie:{registry}:migrating"
QUEUE_NUMBERS = "kelpie:{registry}:queue_numbers"
QUEUE_NAMES = "kelpie:{registry}:queue_names"
USER_NAMES = "kelpie:{users}:names"
ORGANIZATIONS = "kelpie:{users}:organizations"
USERS_EPOCH = "kelpie:{users}:epoch"
REQUESTS = "kelpie:{metrics}:requests"
PROCESSES = "kelpie:{metrics}:processes"
API_KEY_PREFIX = "kelpie:{users}:key:"
RULES = "kelpie:{rules}:rules"
GROUPS = "kelpie:{rules}:groups"
SAMPLER_LOCK = "kelpie:{metrics}:sampler"
AUTOSCALER_LOCK = "kelpie:{rules}:autoscaler"
DELIVERY_USERS = "kelpie:{webhooks}:users"
AUDIT = "kelpie:{audit}:all"


def delivery(delivery_id: str) -> str:
    """What is known of a webhook delivery."""
    return f"kelpie:{{webhooks}}:delivery:{delivery_id}"


def deliveries_of_user(user_id: str) -> str:
    """The deliveries of a user."""
    return f"kelpie:{{webhooks}}:of_user:{user_id}"


def deliveries_of_job(job_id: str) -> str:
    """The deliveries about a job."""
    return f"kelpie:{{webhooks}}:of_job:{job_id}"


def spent(minute: int) -> str:
    """What was spent of each rate limit in a minute since 1970 UTC."""
    return f"kelpie:{{limits}}:{minute}"


def history(user_id: str | None) -> str:
    """How a user's figures were over the last day; None: those of all users together."""
    return "kelpie:{metrics}:history" + ("" if user_id is None else f":{user_id}")


def user_queues(user_id: str) -> str:
    """The numbers of a user's queues."""
    return f"kelpie:{{registry}}:user_queues:{user_id}"


def submitted(user_id: str, key_digest: str) -> str:
    """What a user submitted under an idempotency key."""
    return f"kelpie:{{registry}}:submit:{user_id}:{key_digest}"


def user(user_id: str) -> str:
    """What is known of a user."""
    return f"kelpie:{{users}}:user:{user_id}"


def user_keys(user_id: str) -> str:
    """The digests of a user's API keys."""
    return f"kelpie:{{users}}:user_keys:{user_id}"


def api_key(digest: str) -> str:
    """What is known of an API key."""
    return f"{API_KEY_PREFIX}{digest}"


def session(digest: str) -> str:
    """A browser's session, by the digest of its secret."""
    return f"kelpie:{{users}}:session:{digest}"


def audit_of(user_id: str) -> str:
    """What a user did."""
    return f"kelpie:{{audit}}:user:{user_id}"


def user_rules(user_id: str) -> str:
    """The container groups whose scaling rules are a user's."""
    return f"kelpie:{{rules}}:user_rules:{user_id}"


def rule(group_id: str) -> str:
    """The scaling rule of a container group."""
    return f"kelpie:{{rules}}:rule:{group_id}"


def decisions(group_id: str) -> str:
    """What was decided about a container group."""
    return f"kelpie:{{rules}}:decisions:{group_id}"


def group(group_id: str) -> str:
    """A container group of the local provider."""
    return f"kelpie:{{rules}}:group:{group_id}"


def reallocations(group_id: str) -> str:
    """The nodes of a container group that are to be replaced."""
    return f"kelpie:{{rules}}:reallocations:{group_id}"


def queue_name(user_id: str, container_group_id: str) -> str:
    """The name of a queue in QUEUE_NUMBERS. Percent-encoded, so that no name can be taken for another."""
    return f"{quote(user_id, safe='')}/{quote(container_group_id, safe='')}"


class QueueKeys:
    """The names of the keys of one queue."""

    def __init__(self, number: int) -> None:
        self.prefix = f"kelpie:{{{number}}}:"
        self.meta = f"{self.prefix}meta"
        self.waiting = f"{self.prefix}waiting"
        self.leased = f"{self.prefix}leased"
        self.delayed = f"{self.prefix}delayed"
        self.on_hold = f"{self.prefix}on_hold"
        self.grants = f"{self.prefix}grants"
        self.polls = f"{self.prefix}polls"
        self.drained = f"{self.prefix}drained"
        self.counters = f"{self.prefix}counters"
        self.events = f"{self.prefix}events"

    def job(self, job_id: str) -> str:
        """The job's mutable state."""
        return f"{self.prefix}job:{job_id}"

    def spec(self, job_id: str) -> str:
        """The job's definition."""
        return f"{self.prefix}spec:{job_id}"

    def attempts(self, job_id: str) -> str:
        """The job's closed attempts."""
        return f"{self.prefix}attempts:{job_id}"

    def log(self, job_id: str) -> str:
        """What the job's commands printed."""
        return f"{self.prefix}log:{job_id}"

    def heartbeat(self, job_id: str) -> str:
        """The sign of life of the job's holder."""
        return f"{self.prefix}heartbeat:{job_id}"

    def backlog(self, job_id: str) -> str:
        """What waits for its upload on the job's node."""
        return f"{self.prefix}backlog:{job_id}"

    def progress(self, job_id: str) -> str:
        """What the job's command said of its progress."""
        return f"{self.prefix}progress:{job_id}"

    def transfers(self, job_id: str) -> str:
        """What was moved for the entries of the job's sync."""
        return f"{self.prefix}transfers:{job_id}"

    def progress_history(self, job_id: str) -> str:
        """How the job's progress was over time."""
        return f"{self.prefix}progress_history:{job_id}"

    def bans(self, node: str) -> str:
        """The live jobs that ban a node."""
        return f"{self.prefix}bans:{node}"

    def index(self, status: str) -> str:
        """The jobs in a status."""
        return f"{self.prefix}jobs:{status}"

    def label(self, name: str, value: str) -> str:
        """The jobs with a label."""
        return f"{self.prefix}label:{name}={value}"

    def node(self, node: str) -> str:
        """The jobs that a node was given."""
        return f"{self.prefix}node:{node}"
