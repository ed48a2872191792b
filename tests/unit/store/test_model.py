"""Random histories against a plain Python model of the protocol, compared after every step."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kelpie.errors import ConflictError, LeaseLostError, NotFoundError
from kelpie.job import FAILURES, Holder, JobStatus, Lease, Outcome
from kelpie.store.connection import make_client
from tests.unit.store.conftest import StoreUnderTest

NODES = ["n1", "n2", "n3"]
LEASE_MS = 10_000
LIVE = {"pending", "running"}


@dataclass
class ModelJob:
    id: str
    number: int
    priority: int
    max_failures: int
    status: str = "pending"
    attempt: int = 0
    state: str | None = None  # of the last attempt: held, expired, None = closed
    node: str | None = None
    secret: str | None = None
    outcome: Outcome | None = None
    deadline: int = 0
    failures: int = 0
    bans: list[str] = field(default_factory=list)
    history: list[tuple[int, str | None, Outcome]] = field(default_factory=list)

    @property
    def order(self) -> tuple[bool, int, int]:
        return (self.status == "pending", 255 - self.priority, self.number)

    @property
    def waits(self) -> bool:
        return self.status in LIVE and self.state != "held"

    def close(self, outcome: Outcome) -> None:
        self.history.append((self.attempt, self.node, outcome))
        self.state, self.outcome = None, outcome

    def fail(self) -> None:
        self.failures += 1
        if self.failures >= self.max_failures:
            if self.state:
                self.close(Outcome.SUPERSEDED)
            self.status = "failed"


class Protocol(RuleBasedStateMachine):
    client: Any  # set by the test

    def __init__(self) -> None:
        super().__init__()
        self.client.flushdb()
        self.sut = StoreUnderTest(self.client, real=True)
        self.sut.set_clock()
        self.jobs: dict[str, ModelJob] = {}
        self.purged: set[str] = set()
        self.granted: list[Lease] = []  # every lease there ever was: zombies keep theirs for ever
        self.requests = itertools.count()
        self.numbers = itertools.count()
        self.last_request: dict[str, tuple[str, str]] = {}  # node → request id, job id

    def reap(self) -> None:
        for job in self.jobs.values():
            if job.state == "held" and job.deadline <= self.sut.now:
                job.state = "expired"

    @rule(priority=st.sampled_from([0, 1, 255]), max_failures=st.integers(1, 3))
    def submit(self, priority: int, max_failures: int) -> None:
        job = self.sut.submit_one(priority=priority, max_failures=max_failures, heartbeat_interval=5)
        self.jobs[job.id] = ModelJob(job.id, next(self.numbers), priority, max_failures)

    @precondition(lambda self: self.jobs)
    @rule(ms=st.sampled_from([1, 900, 4999, 9999, 10_000, 30_000]))
    def advance(self, ms: int) -> None:
        self.sut.advance(ms)

    @precondition(lambda self: self.jobs)
    @rule()
    def reap_all(self) -> None:
        self.reap()
        self.sut.reap()

    @rule(node=st.sampled_from(NODES), repeat=st.booleans())
    def lease(self, node: str, repeat: bool) -> None:
        request_id = f"request-{next(self.requests):08}"
        if repeat and node in self.last_request:
            request_id, job_id = self.last_request[node]
            job = self.jobs.get(job_id)
            given = self.granted_by(request_id)
            if job is not None and job.state and given is not None and job.secret == given.secret:
                again = self.sut.lease(node, request_id)
                assert (again.job.id, again.fence) == (job.id, given.fence)
                job.state, job.deadline = "held", self.sut.now + LEASE_MS
                return
        leased = self.sut.poll(node, request_id)
        if not self.jobs:
            assert leased is None
            return
        self.reap()
        allowed = sorted(
            (j for j in self.jobs.values() if j.waits and node not in j.bans), key=lambda j: j.order
        )
        if not allowed:
            assert leased is None
            return
        job = allowed[0]
        assert leased is not None
        assert leased.job.id == job.id
        assert all(leased.fence > other.fence for other in self.granted if other.secret != leased.secret)
        if job.state == "expired":
            job.close(Outcome.INTERRUPTED)
        job.status, job.state, job.node, job.secret = "running", "held", node, leased.secret
        job.attempt, job.outcome, job.deadline = job.attempt + 1, None, self.sut.now + LEASE_MS
        assert leased.job.attempt == job.attempt
        self.granted.append(leased)
        self.last_request[node] = (request_id, job.id)

    def granted_by(self, request_id: str) -> Lease | None:
        node, job_id = next((n, j) for n, (r, j) in self.last_request.items() if r == request_id)
        return next(
            (g for g in reversed(self.granted) if g.job.id == job_id and g.job.machine_id == node), None
        )

    @precondition(lambda self: self.granted)
    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.granted))
        holder = Holder("any-name", lease.secret)
        if lease.job.id in self.purged:
            with pytest.raises(NotFoundError):
                self.sut.store.heartbeat(lease.job.id, holder)
            return
        job = self.jobs[lease.job.id]
        reply = self.sut.store.heartbeat(job.id, holder)
        if job.secret == lease.secret and job.state and job.status in LIVE:
            assert (reply.status, reply.reason) == (JobStatus.RUNNING, None)
            job.state, job.deadline = "held", self.sut.now + LEASE_MS
        elif job.secret != lease.secret:
            assert (reply.status, reply.reason) == (JobStatus.CANCELED, "superseded")
        else:
            expected = "closed" if job.status in LIVE else job.status
            assert (reply.status, reply.reason) == (JobStatus.CANCELED, expected)

    @precondition(lambda self: self.granted)
    @rule(data=st.data(), outcome=st.sampled_from(["completed", "app_failed", "sync_failed", "released"]))
    def finish(self, data: st.DataObject, outcome: str) -> None:
        lease, result = data.draw(st.sampled_from(self.granted)), Outcome(outcome)
        holder = Holder("any-name", lease.secret)
        if lease.job.id in self.purged:
            with pytest.raises(NotFoundError):
                self.sut.store.finish(lease.job.id, holder, result)
            return
        job = self.jobs[lease.job.id]
        if job.secret != lease.secret:
            self.refused(job, holder, result, "superseded")
            return
        if not job.state:
            if job.outcome is not result:
                self.refused(job, holder, result, "closed" if job.status in LIVE else job.status)
                return
        else:
            job.close(result)
            if result is Outcome.COMPLETED:
                job.status = "completed"
            elif result in FAILURES:
                assert job.node is not None
                job.bans.append(job.node)
                job.fail()
        reply = self.sut.store.finish(job.id, holder, result)
        assert job.node is not None
        assert (reply.status, reply.num_failures) == (job.status, job.failures)
        assert reply.node_bans == self.live_bans(job.node)

    def refused(self, job: ModelJob, holder: Holder, outcome: Outcome, reason: str) -> None:
        with pytest.raises(LeaseLostError) as error:
            self.sut.store.finish(job.id, holder, outcome)
        assert error.value.reason == reason

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), outcome=st.sampled_from(["completed", "app_failed"]))
    def finish_by_hand(self, data: st.DataObject, outcome: str) -> None:
        job, result = data.draw(st.sampled_from(list(self.jobs.values()))), Outcome(outcome)
        holder = Holder("a-laptop", may_report_unheld=True)
        if job.state == "held":
            self.refused(job, holder, result, "not_holder")
            return
        if job.status not in LIVE and job.status != outcome:
            self.refused(job, holder, result, job.status)
            return
        reply = self.sut.store.finish(job.id, holder, result)
        if job.status in LIVE:
            if result is Outcome.COMPLETED:
                if job.state:
                    job.close(Outcome.SUPERSEDED)
                job.status = "completed"
            else:
                job.fail()
        assert (reply.status, reply.num_failures) == (job.status, job.failures)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(list(self.jobs.values())))
        if job.status in ("completed", "failed"):
            with pytest.raises(ConflictError):
                self.sut.store.cancel(job.id)
            return
        if job.state:
            job.close(Outcome.CANCELED if job.state == "held" else Outcome.INTERRUPTED)
        job.status = "canceled"
        assert self.sut.store.cancel(job.id).status is JobStatus.CANCELED

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def purge(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(list(self.jobs.values())))
        self.sut.store.purge(job.id)
        job.status, job.state = "purged", None
        self.purged.add(job.id)
        self.jobs = {job_id: kept for job_id, kept in self.jobs.items() if job_id != job.id}

    def live_bans(self, node: str) -> int:
        return sum(node in job.bans and job.status in LIVE for job in self.jobs.values())

    @invariant()
    def the_store_agrees_with_the_model(self) -> None:
        client, keys = self.client, self.sut.keys()
        waiting = [job_id.decode() for job_id in client.zrange(keys.waiting, 0, -1)]
        assert waiting == [
            j.id for j in sorted((j for j in self.jobs.values() if j.waits), key=lambda j: j.order)
        ]
        leased = {
            job_id.decode(): score for job_id, score in client.zrange(keys.leased, 0, -1, withscores=True)
        }
        assert leased == {j.id: j.deadline for j in self.jobs.values() if j.state == "held"}
        grants = {job_id.decode() for job_id in client.hvals(keys.grants)}
        assert grants == {j.id for j in self.jobs.values() if j.state}
        for status in JobStatus:
            indexed = {job_id.decode() for job_id in client.zrange(keys.index(status), 0, -1)}
            assert indexed == {j.id for j in self.jobs.values() if j.status == status}
        for node in NODES:
            bans = dict(client.zrange(keys.bans(node), 0, -1, withscores=True))
            live = [j for j in self.jobs.values() if node in j.bans and j.status in LIVE]
            assert {job_id.decode(): score > 0 for job_id, score in bans.items()} == {
                j.id: j.waits for j in live
            }
        for job in self.jobs.values():
            kept = self.sut.store.get(job.id)
            assert (kept.status, kept.attempt, kept.num_failures) == (job.status, job.attempt, job.failures)
            assert (kept.held, kept.machine_id) == (job.state == "held", job.node)
            assert list(kept.banned_nodes) == job.bans
            closed = [(a.attempt, a.node, a.outcome) for a in self.sut.store.attempts(job.id)]
            expected: list[tuple[int, str | None, Outcome | None]] = [*job.history]
            if job.state:
                expected.append(
                    (job.attempt, job.node, Outcome.INTERRUPTED if job.state == "expired" else None)
                )
            assert closed == expected


def test_random_histories_agree_with_the_model(valkey: Any) -> None:
    client = make_client(valkey.url)
    machine = type("Machine", (Protocol,), {"client": client})
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=40,
                stateful_step_count=40,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        client.connection_pool.disconnect()
