"""Everything that a store keeps of its queues, read back from the server and compared with the model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kelpie.job import Attempt, JobStatus
from kelpie.store import Store, codec
from kelpie.store.keys import WAKE_CHANNEL, QueueKeys
from kelpie.store.records import Queue
from kelpie.store.registry import Place, Registry
from tests.proof.model import Model, ModelEvent, ModelJob
from tests.proof.virtual import Client, VirtualScripts

USER = "11111111-1111-4111-8111-111111111111"

PUBLISHED = f"virtual:{WAKE_CHANNEL}"

LABELS = ("kind=big", "kind=small")

DUMP = """
local keys, jobs, nodes = cjson.decode(ARGV[1]), cjson.decode(ARGV[2]), cjson.decode(ARGV[3])
local function pairs_of(key) return redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end
local bans = {}
for i, key in ipairs(nodes) do bans[i] = pairs_of(key) end
local indexes = {}
for i, key in ipairs(keys.indexes) do indexes[i] = redis.call('ZRANGE', key, 0, -1) end
local given = {}
for i, key in ipairs(keys.given) do
  given[i] = {redis.call('ZRANGE', key, 0, -1), redis.call('ZSCORE', 'virtual:ends', key)}
end
local found = {cjson.encode({
  redis.call('ZRANGE', keys.waiting, 0, -1), pairs_of(keys.leased), redis.call('HVALS', keys.grants), indexes,
  bans, redis.call('XRANGE', keys.events, ARGV[4], '+'), redis.call('LRANGE', keys.published, 0, -1),
  pairs_of(keys.delayed), redis.call('ZRANGE', keys.on_hold, 0, -1), given, pairs_of(keys.polls),
  redis.call('HGETALL', keys.counters),
})}
for i, job in ipairs(jobs) do
  found[i + 1] = cjson.encode({
    redis.call('HGETALL', job[1]), redis.call('LRANGE', job[2], 0, -1), redis.call('GET', job[3]),
    redis.call('ZSCORE', 'virtual:ends', job[3]), redis.call('EXISTS', job[4]),
  })
end
return found
"""


class Disagreement(AssertionError):
    """The store and the model do not agree."""


@dataclass
class QueueUnderTest:
    """A queue of the store and its model."""

    group: str
    model: Model
    place: Place | None = None  # None before its first job
    last_event: str = "0-0"
    events_seen: int = 0
    ids: list[str] = field(default_factory=list)  # of every job ever submitted
    decoded: dict[str, tuple[bytes, Any]] = field(default_factory=dict)

    @property
    def keys(self) -> QueueKeys:
        """The names of its keys."""
        assert self.place is not None, "nothing was submitted to it yet"
        return self.place.keys

    @property
    def number(self) -> int:
        """Its number in the registry."""
        assert self.place is not None, "nothing was submitted to it yet"
        return self.place.queue.number

    def find(self, store: Store) -> None:
        """Looks its keys up once it has a job."""
        self.place = Registry(store.redis, VirtualScripts(store.redis)).find(USER, self.group)


class Comparison:
    """Compares the queues of one server with their models; ``nodes`` are all that ever poll."""

    def __init__(self, client: Client, nodes: Sequence[str]) -> None:
        self._client = client
        self._nodes = nodes
        self._dump = client.register_script(DUMP)

    def check(self, queues: Sequence[QueueUnderTest]) -> None:
        """Compare everything that is kept, in one round trip for each queue. Disagreement."""
        for queue in queues:
            if queue.place is not None:
                self._check_queue(queue)
        if any(queue.model.wakes for queue in queues):
            self._client.delete(PUBLISHED)
            for queue in queues:
                queue.model.wakes.clear()

    def _check_queue(self, queue: QueueUnderTest) -> None:
        keys, model = queue.keys, queue.model
        names = {
            "waiting": keys.waiting,
            "leased": keys.leased,
            "grants": keys.grants,
            "events": keys.events,
            "published": PUBLISHED,
            "delayed": keys.delayed,
            "on_hold": keys.on_hold,
            "polls": keys.polls,
            "counters": keys.counters,
            "given": [f"{keys.prefix}node:{node}" for node in self._nodes],
            "indexes": [keys.index(status) for status in JobStatus]
            + [f"{keys.prefix}label:{label}" for label in LABELS],
        }
        per_job = [(keys.job(i), keys.attempts(i), keys.heartbeat(i), keys.spec(i)) for i in queue.ids]
        bans = [keys.bans(node) for node in self._nodes]
        answer = self._dump(
            args=[json.dumps(names), json.dumps(per_job), json.dumps(bans), f"({queue.last_event}"]
        )
        waiting, leased, grants, indexes, banned, events, published, *more = json.loads(answer[0])
        self._check_events(queue, list(events))
        self._check_wakes(queue, list(published))
        jobs = model.jobs
        same("waiting", list(waiting), [job.id for job in model.waiting()])
        same("leased", _scores(leased), {j.id: j.deadline for j in jobs.values() if j.held})
        same("grants", sorted(grants), sorted(j.id for j in jobs.values() if j.state))
        in_order = sorted(jobs.values(), key=lambda job: job.order_us)
        for status, found in zip(JobStatus, indexes[: len(JobStatus)], strict=True):
            same(f"jobs {status}", list(found), [j.id for j in in_order if j.status is status])
        for label, found in zip(LABELS, indexes[len(JobStatus) :], strict=True):
            same(f"jobs labelled {label}", list(found), [j.id for j in in_order if label in j.labels])
        delayed, on_hold, given, polls, counters = more
        same("delayed", _scores(delayed), {j.id: j.due for j in in_order if j.delayed})
        kept_back = [j.id for j in in_order if j.live and j.on_hold and not j.held]
        same("on hold", list(on_hold), kept_back)
        for node, found in zip(self._nodes, given, strict=True):
            ids, end = set(found[0]), int(found[1]) if found[0] else None
            known = model.given.get(node, set())
            same(f"given to {node}", (ids, end), (known, model.given_until.get(node)))
        same("polls", _scores(polls), {node: float(time) for node, time in model.polls.items()})
        counted = {name: int(number) for name, number in _scores(counters).items() if number}
        same("counters", counted, {name: number for name, number in model.counters.items() if number})
        for node, pairs in zip(self._nodes, banned, strict=True):
            waits = {job_id: score > 0 for job_id, score in _scores(pairs).items()}
            same(f"bans of {node}", waits, {j.id: j.waits for j in model.banned_from(node)})
        for job_id, raw in zip(queue.ids, answer[1:], strict=True):
            known = queue.decoded.get(job_id)
            if known is None or known[0] != raw:
                known = queue.decoded[job_id] = (raw, _decoded(job_id, raw))
            same(f"job {job_id}", known[1], _expected(jobs.get(job_id)))
        if len(queue.ids) > 2 * len(jobs) + 20:  # those that are deleted have been looked at long enough
            queue.ids = [job_id for job_id in queue.ids if job_id in jobs]

    def _check_events(self, queue: QueueUnderTest, entries: list[Any]) -> None:
        found = []
        for event_id, fields in entries:
            event = codec.decode_event(event_id, dict(zip(fields[::2], fields[1::2], strict=True)))
            found.append(
                ModelEvent(
                    event.type.value, event.job_id, event.attempt, event.node, event.status.value, event.time
                )
            )
            queue.last_event = event_id
        same("events", found, queue.model.events[queue.events_seen :])
        queue.events_seen += len(found)

    def _check_wakes(self, queue: QueueUnderTest, published: list[str]) -> None:
        told = [words.split() for words in published]
        wakes = [int(count) for number, count in told if int(number) == queue.number]
        same("wakes", wakes, queue.model.wakes)


def same(what: str, found: object, expected: object) -> None:
    """Raises Disagreement when they are not."""
    if found != expected:
        raise Disagreement(f"{what}:\n  the store says {found!r}\n  the model says {expected!r}")


def _scores(flat: Sequence[str] | Mapping[str, str]) -> dict[str, float]:
    """From a list of members and scores; an empty one comes as an object from Lua."""
    pairs = list(flat)
    return {member: float(score) for member, score in zip(pairs[::2], pairs[1::2], strict=True)}


def _decoded(job_id: str, raw: bytes) -> tuple[Any, ...] | None:
    flat, records, heartbeat, heartbeat_end, spec_exists = json.loads(raw)
    if not flat:
        leftovers = (list(records), heartbeat, heartbeat_end, spec_exists)
        return None if leftovers == ([], False, False, 0) else leftovers
    fields: dict[str, str] = dict(zip(flat[::2], flat[1::2], strict=True))
    job = codec.decode_job(job_id, Queue(1, USER, ""), fields, b'{"command":""}')
    attempts: list[Attempt] = [codec.decode_attempt(record.encode()) for record in records]
    current = codec.open_attempt(fields)
    if current is not None:
        attempts.append(current)
    return (
        job.status,
        job.spec.priority,
        job.attempt,
        job.num_failures,
        job.num_heartbeats,
        job.held,
        job.machine_id,
        list(job.banned_nodes),
        job.on_hold,
        job.due,
        job.created,
        job.started,
        (job.completed, job.canceled, job.failed),
        job.heartbeat,
        attempts,
        heartbeat or None,
        int(heartbeat_end) if heartbeat_end else None,
        spec_exists,
    )


def _expected(job: ModelJob | None) -> tuple[Any, ...] | None:
    if job is None:
        return None
    ended = tuple(
        job.ended if job.status is status else None
        for status in (JobStatus.COMPLETED, JobStatus.CANCELED, JobStatus.FAILED)
    )
    alive = job.alive_until is not None
    return (
        job.status,
        job.priority,
        job.attempt,
        job.failures,
        job.heartbeats,
        job.held,
        job.node,
        job.bans,
        job.on_hold,
        job.due,
        job.created,
        job.started,
        ended,
        job.heartbeat,
        job.attempts,
        f"{job.attempt} {job.node}" if alive else None,
        job.alive_until,
        1,
    )
