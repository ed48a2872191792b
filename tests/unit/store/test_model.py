"""Random histories against the plain Python model of the protocol, compared after every step and shrunk."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kelpie.job import REPORTABLE, Holder, Lease, Outcome
from tests.factories import GROUP
from tests.proof.harness import Harness
from tests.proof.virtual import make_client

NODES = ["n1", "n2", "n3"]
SENDS = st.sampled_from([1, 1, 1, 2])
OUTCOMES = st.sampled_from(sorted(REPORTABLE))


class Protocol(RuleBasedStateMachine):
    client: Any  # set by the test

    def __init__(self) -> None:
        super().__init__()
        self.harness = Harness(self.client, groups=[GROUP], nodes=NODES)
        self.granted: list[Lease] = []  # every lease there ever was: zombies keep theirs for ever
        self.polls: list[tuple[str, str]] = []
        self.requests = itertools.count()

    @rule(
        priority=st.sampled_from([0, 1, 255]),
        max_failures=st.integers(1, 3),
        retry_backoff_s=st.sampled_from([0, 0, 4]),
        delay_ms=st.sampled_from([None, None, 5000]),
        max_runtime_s=st.sampled_from([None, None, 3]),
        count=st.integers(1, 2),
        sends=SENDS,
    )
    def submit(self, count: int, sends: int, delay_ms: int | None, **definition: Any) -> None:
        if delay_ms is not None:
            definition["not_before"] = self.harness.clock.now + delay_ms
        self.harness.submit(GROUP, count, sends=sends, heartbeat_interval=5, **definition)

    @rule(ms=st.sampled_from([1, 900, 4999, 9999, 10_000, 30_000, -20_000]))
    def time_leaps(self, ms: int) -> None:
        self.harness.set_clock(ms)

    @rule(steps=st.integers(1, 4))
    def time_passes(self, steps: int) -> None:
        for _ in range(steps):
            self.harness.set_clock(3000)
            self.harness.reap(GROUP)

    @rule(node=st.sampled_from(NODES), sends=SENDS)
    def poll(self, node: str, sends: int) -> None:
        self._poll(node, f"request-{next(self.requests)}", sends)

    @precondition(lambda self: self.polls)
    @rule(data=st.data())
    def poll_again(self, data: st.DataObject) -> None:
        self._poll(*data.draw(st.sampled_from(self.polls)), sends=1)

    def _poll(self, node: str, request_id: str, sends: int) -> None:
        lease = self.harness.lease(GROUP, node, request_id, sends=sends)
        self.polls.append((node, request_id))
        if lease is not None:
            self.granted.append(lease)

    @precondition(lambda self: self.granted)
    @rule(data=st.data(), by_lease=st.booleans(), user=st.booleans(), sends=SENDS)
    def heartbeat(self, data: st.DataObject, by_lease: bool, user: bool, sends: int) -> None:
        lease = data.draw(st.sampled_from(self.granted))
        self.harness.heartbeat(lease.job.id, self._holder(lease, by_lease, user), sends=sends)

    @precondition(lambda self: self.granted)
    @rule(data=st.data(), by_lease=st.booleans(), user=st.booleans(), outcome=OUTCOMES, sends=SENDS)
    def finish(self, data: st.DataObject, by_lease: bool, user: bool, outcome: Outcome, sends: int) -> None:
        lease = data.draw(st.sampled_from(self.granted))
        holder = self._holder(lease, by_lease, user)
        self.harness.finish(lease.job.id, holder, outcome, exit_code=1, sends=sends)

    @staticmethod
    def _holder(lease: Lease, by_lease: bool, user: bool) -> Holder:
        node = lease.job.machine_id or ""
        return Holder("any-name", lease.secret, user) if by_lease else Holder(node, may_report_unheld=user)

    @precondition(lambda self: self.harness.homes)
    @rule(data=st.data(), outcome=OUTCOMES, sends=SENDS)
    def finish_by_hand(self, data: st.DataObject, outcome: Outcome, sends: int) -> None:
        holder = Holder("a-laptop", may_report_unheld=True)
        self.harness.finish(self._job(data), holder, outcome, sends=sends)

    @precondition(lambda self: self.harness.homes)
    @rule(data=st.data(), sends=SENDS)
    def cancel(self, data: st.DataObject, sends: int) -> None:
        self.harness.cancel(self._job(data), sends=sends)

    @precondition(lambda self: self.harness.homes)
    @rule(data=st.data(), what=st.sampled_from(["hold", "resume", "requeue"]), sends=SENDS)
    def change(self, data: st.DataObject, what: str, sends: int) -> None:
        getattr(self.harness, what)(self._job(data), sends=sends)

    @precondition(lambda self: self.harness.homes)
    @rule(data=st.data(), node=st.sampled_from([None, *NODES]), sends=SENDS)
    def unban(self, data: st.DataObject, node: str | None, sends: int) -> None:
        self.harness.unban(self._job(data), node, sends=sends)

    @precondition(lambda self: self.harness.homes)
    @rule(data=st.data(), priority=st.sampled_from([0, 1, 255]), sends=SENDS)
    def prioritize(self, data: st.DataObject, priority: int, sends: int) -> None:
        self.harness.prioritize(self._job(data), priority, sends=sends)

    @precondition(lambda self: self.harness.homes)
    @rule(data=st.data())
    def purge(self, data: st.DataObject) -> None:
        self.harness.purge(self._job(data))

    @rule()
    def clear(self) -> None:
        self.harness.clear(GROUP)

    def _job(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(list(self.harness.homes)))

    @invariant()
    def the_store_agrees_with_the_model(self) -> None:
        self.harness.check()

    def teardown(self) -> None:
        self.harness.purge_all()


def test_random_histories_agree_with_the_model(valkey: Any) -> None:
    client = make_client(valkey.url)
    machine = type("Machine", (Protocol,), {"client": client})
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=150,
                stateful_step_count=40,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        client.close()
