"""The store and its model side by side: each command goes to both, and the answers must agree.

:meth:`Harness.check` has everything read back from the server and compared with the model (comparison.py).
Whoever drives the store at random — the hypothesis machine, the walk, the simulated fleet — does it here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from kelpie.errors import ConflictError, LeaseLostError, NotFoundError
from kelpie.job import HeartbeatReply, Holder, Job, JobSpec, JobStatus, Lease, Outcome
from kelpie.store import Store
from kelpie.store.keys import QueueKeys
from kelpie.store.leases import REAP_LIMIT, REAP_LIMIT_IN_LEASE
from tests.factories import spec
from tests.proof.comparison import USER, Comparison, QueueUnderTest, same
from tests.proof.model import Caller, Clock, Grant, Model, NewJob, Report, Shown
from tests.proof.virtual import START_MS, Client, VirtualScripts

T = TypeVar("T")
Refusal = tuple[str, str]
"""The kind of an error, and its reason."""


class Harness:
    """A store on an empty database in the virtual world, and its model."""

    def __init__(
        self,
        client: Client,
        *,
        groups: Sequence[str] = ("group-1",),
        nodes: Sequence[str] = ("n1", "n2", "n3"),
        mutated: Mapping[str, str] | None = None,
        compares: bool = True,
    ) -> None:
        """``mutated``: other texts of script files. Unless it ``compares``, the model has no say."""
        client.flushdb()
        self.client = client
        self._compares = compares
        self.scripts = VirtualScripts(client, mutated)
        self.store = Store(client, scripts=self.scripts, allow_volatile=True)
        self.nodes = list(nodes)
        self.clock = Clock(START_MS)
        self.queues = {group: QueueUnderTest(group, Model(self.clock)) for group in groups}
        self.shown: dict[str, Shown] = {}  # what every lease ever granted stands for
        self.homes: dict[str, QueueUnderTest] = {}  # of every job ever submitted
        self._bound: dict[str, Sequence[JobSpec]] = {}  # what was submitted under each idempotency key
        self._reports = itertools.count()
        self._comparison = Comparison(client, self.nodes)
        self.set_clock(0)

    # Commands

    def set_clock(self, ms: int) -> None:
        """The server's time moves by that much, in one leap."""
        self.clock.now += ms
        self.client.move_clock(self.clock.now)
        for queue in self.queues.values():
            queue.model.time_moved()

    def submit(self, group: str, count: int = 1, *, sends: int = 1, **overrides: Any) -> list[Job]:
        """Jobs of one definition."""
        return self.submit_specs([spec(container_group_id=group, **overrides)] * count, sends=sends)

    def submit_specs(
        self, specs: Sequence[JobSpec], *, sends: int = 1, idempotency_key: str | None = None
    ) -> list[Job]:
        """A batch, maybe for several queues; no jobs where it was refused."""
        found = self._real(lambda: self.store.submit(USER, specs, idempotency_key=idempotency_key), sends)
        if idempotency_key is not None:
            bound = self._bound.setdefault(idempotency_key, specs)
            self._same("other jobs under the same key", isinstance(found, list), list(bound) == list(specs))
        if isinstance(found, tuple):
            return []
        jobs = found
        for group in dict.fromkeys(one.container_group_id for one in specs):
            queue = self.queues[group]
            if queue.place is None:
                queue.find(self.store)
            own = [job for job in jobs if job.spec.container_group_id == group]
            rows = [_new_job(job.id, job.spec) for job in own]
            for _ in range(sends):
                created = queue.model.submit(rows)
            self._same("created", [job.created for job in own], created)
            states = [queue.model.jobs[job.id].status for job in own]
            self._same("status of the submitted jobs", [job.status for job in own], states)
            queue.ids += [job.id for job in own if job.id not in queue.ids]
            self.homes |= {job.id: queue for job in own}
        return jobs

    def lease(self, group: str, node: str, request_id: str, *, sends: int = 1) -> Lease | None:
        """A poll; the lease, or None also where it was refused."""
        queue, secret = self.queues[group], (node, request_id)
        if queue.place is None:
            self._same("a lease of an unknown queue", self.store.lease(USER, group, node, request_id), None)
            return None
        found = self._real(lambda: self.store.lease(USER, group, node, request_id), sends)
        expected = _model(lambda: queue.model.lease(secret, REAP_LIMIT_IN_LEASE), sends)
        lease = found if isinstance(found, Lease) else None
        told: object = found
        if lease is not None:
            job = lease.job
            told = Grant(job.id, job.attempt, lease.fence, lease.expires)
            self._same("the leased job's node and status", (job.machine_id, job.status), (node, "running"))
            self.shown[lease.secret] = (lease.fence, secret)
        self._same(f"lease for {node}", told, expected)
        return lease

    def heartbeat(self, job_id: str, holder: Holder, *, sends: int = 1) -> HeartbeatReply | Refusal:
        """A sign of life, in the name of ``holder``."""
        caller, model = self._caller(holder), self.homes[job_id].model
        found = self._real(lambda: self.store.heartbeat(job_id, holder), sends)
        self._same("heartbeat", found, _model(lambda: model.heartbeat(job_id, caller), sends))
        return found

    def finish(
        self,
        job_id: str,
        holder: Holder,
        outcome: Outcome,
        *,
        exit_code: int | None = None,
        reason: str | None = None,
        sends: int = 1,
    ) -> Report | Refusal:
        """A report, in the name of ``holder``."""
        caller, model = self._caller(holder), self.homes[job_id].model

        def report() -> Report:
            reply = self.store.finish(job_id, holder, outcome, exit_code=exit_code, reason=reason)
            return Report(reply.status, reply.num_failures, reply.node_bans)

        found = self._real(report, sends)
        expected = _model(lambda: model.finish(job_id, caller, outcome, exit_code, reason), sends)
        self._same(f"finish {outcome}", found, expected)
        return found

    def cancel(self, job_id: str, *, sends: int = 1) -> JobStatus | Refusal:
        """Cancels a job."""
        model = self.homes[job_id].model
        found = self._real(lambda: self.store.cancel(job_id).status, sends)
        self._same("cancel", found, _model(lambda: model.cancel(job_id), sends))
        return found

    def hold(self, job_id: str, *, sends: int = 1) -> Refusal | None:
        """Keeps a job from being leased."""
        model = self.homes[job_id].model
        return self._change("hold", self.store.hold, model.hold, job_id, sends)

    def resume(self, job_id: str, *, sends: int = 1) -> Refusal | None:
        """Lets a job go on that was held."""
        model = self.homes[job_id].model
        return self._change("resume", self.store.resume, model.resume, job_id, sends)

    def requeue(self, job_id: str, *, sends: int = 1) -> Refusal | None:
        """Opens a job again that has ended."""
        model = self.homes[job_id].model
        return self._change("requeue", self.store.requeue, model.requeue, job_id, sends)

    def unban(self, job_id: str, node: str | None, *, sends: int = 1) -> Refusal | None:
        """Lets a node have a job again."""
        model = self.homes[job_id].model
        return self._change(
            "unban",
            lambda known: self.store.unban(known, node=node),
            lambda known: model.unban(known, node),
            job_id,
            sends,
        )

    def prioritize(self, job_id: str, priority: int, *, sends: int = 1) -> Refusal | None:
        """Gives a job another priority."""
        model = self.homes[job_id].model
        return self._change(
            "prioritize",
            lambda known: self.store.prioritize(known, priority),
            lambda known: model.prioritize(known, priority),
            job_id,
            sends,
        )

    def _change(
        self,
        what: str,
        real: Callable[[str], Job],
        model: Callable[[str], None],
        job_id: str,
        sends: int,
    ) -> Refusal | None:
        def call() -> None:
            real(job_id)

        found = self._real(call, sends)
        self._same(what, found, _model(lambda: model(job_id), sends))
        return found

    def purge(self, job_id: str, *, sends: int = 1) -> Refusal | None:
        """Deletes a job."""
        model = self.homes[job_id].model
        found = self._real(lambda: self.store.purge(job_id), sends)
        # The store looks before it deletes, so a repeat of the script itself changes nothing.
        self._same("purge", found, _model(lambda: model.purge(job_id), 1))
        return found

    def clear(self, group: str) -> None:
        """Purges a queue's pending jobs and cancels its running ones."""
        queue = self.queues[group]
        expected = 0 if queue.place is None else queue.model.clear()
        self._same("clear", self.store.clear_group(USER, group), expected)

    def expire(self, group: str, age_ms: int) -> None:
        """Deletes what ended that long ago or longer."""
        queue = self.queues[group]
        if queue.place is not None:
            before = self.clock.now - age_ms
            self._same("expire", self.store.expire(queue.place.queue, before), queue.model.expire(before))

    def purge_all(self) -> None:
        """Deletes everything, and sees that nothing stays but what a queue keeps of itself."""
        self.store.purge_all()
        known = {name for queue in self.queues.values() if queue.place for name in _own_keys(queue.keys)}
        prefixes = [queue.keys.prefix for queue in self.queues.values() if queue.place]
        left = {key.decode() for key in self.client.scan_iter(count=1000)}
        # What a node was given before the last one of a job ends by its time.
        passing = ("virtual:", "kelpie:{registry}", *(f"{queue}node:" for queue in prefixes))
        left = {key for key in left if not key.startswith(passing) and key not in known}
        self._same("keys left behind", left, set())

    def reap(self, group: str, *, sends: int = 1) -> None:
        """Puts back what has expired."""
        queue = self.queues[group]
        if queue.place is None:
            return
        place = queue.place
        found = self._real(lambda: self.store.reap(place.queue), sends)
        self._same("reap", found, _model(lambda: queue.model.reap(REAP_LIMIT), sends))

    def reap_where_needed(self) -> None:
        """What the reaper does: it looks at the queues that the store names."""
        needed = {queue.number for queue in self.store.with_leases()}
        for queue in self.queues.values():
            if queue.place is not None:
                due = any(job.held or job.delayed for job in queue.model.jobs.values())
                self._same("whether a queue must be reaped", queue.number in needed, due)
                if queue.number in needed:
                    self.reap(queue.group)

    # Comparison

    def check(self) -> None:
        """Compares everything that is kept with the model."""
        if self._compares:
            self._comparison.check(list(self.queues.values()))

    # Helpers

    def _same(self, what: str, found: object, expected: object) -> None:
        if self._compares:
            same(what, found, expected)

    def _caller(self, holder: Holder) -> Caller:
        return Caller(
            node=holder.node,
            lease=None if holder.lease is None else self.shown.get(holder.lease),
            shows_lease=holder.lease is not None,
            by_hand=next(self._reports) if holder.may_report_unheld else None,
        )

    def _real(self, call: Callable[[], T], sends: int) -> T | Refusal:
        self.client.sends = sends
        try:
            return _refusal_or(call)
        finally:
            self.client.sends = 1


def _model(call: Callable[[], T], sends: int) -> T | Refusal:
    for _ in range(sends - 1):
        _refusal_or(call)
    return _refusal_or(call)


def _refusal_or(call: Callable[[], T]) -> T | Refusal:
    try:
        return call()
    except LeaseLostError as error:
        return ("lease lost", error.reason)
    except ConflictError:
        return ("conflict", "")
    except NotFoundError:
        return ("not found", "")


def _own_keys(keys: QueueKeys) -> tuple[str, ...]:
    return (keys.meta, keys.events, keys.polls, keys.counters)


def _new_job(job_id: str, spec: JobSpec) -> NewJob:
    return NewJob(
        id=job_id,
        priority=spec.priority,
        max_failures=spec.max_failures,
        lease_ms=spec.lease_ms,
        not_before=spec.not_before,
        retry_backoff_ms=1000 * spec.retry_backoff_s,
        max_runtime_ms=None if spec.max_runtime_s is None else 1000 * spec.max_runtime_s,
        labels=tuple(f"{name}={value}" for name, value in spec.labels.items()),
    )
