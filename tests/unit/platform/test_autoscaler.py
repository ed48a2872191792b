"""The autoscaler on a real store: what it does, when it looks again, and who waits for whom."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from kelpie.errors import NotFoundError, UnavailableError
from kelpie.job import Holder, Outcome
from kelpie.platform import autoscaler as module
from kelpie.platform.autoscaler import Autoscaler
from kelpie.providers import LocalProvider, ProviderError
from kelpie.scaling import Action, ContainerGroup, GroupState, ScalingRule
from kelpie.store import Store, User
from tests.factories import spec
from tests.waiting import wait_until

LONG_S = 3600.0


class FakeProvider:
    """The local provider, but a test may hold its answers back or have it fail, group by group."""

    name = "fake"

    def __init__(self, store: Store) -> None:
        self._real = LocalProvider(store.groups)
        self.calls: list[tuple[str, str, int | None]] = []
        self.fails: dict[str, Exception] = {}
        self.holds: set[str] = set()
        self.go = threading.Event()
        self.entered = threading.Semaphore(0)

    def lookup(self, group_id: str, **where: Any) -> ContainerGroup | None:
        self.calls.append(("lookup", group_id, None))
        if group_id in self.holds:
            self.entered.release()
            self.go.wait(30)
        if group_id in self.fails:
            raise self.fails[group_id]
        return self._real.lookup(group_id, **where)

    def scale(self, group: ContainerGroup, replicas: int) -> None:
        self.calls.append(("scale", group.id, replicas))
        self._real.scale(group, replicas)

    def start(self, group: ContainerGroup) -> None:
        self.calls.append(("start", group.id, None))
        self._real.start(group)

    def stop(self, group: ContainerGroup) -> None:
        self.calls.append(("stop", group.id, None))
        self._real.stop(group)

    def reallocate(self, group: ContainerGroup, node: str) -> None:
        self._real.reallocate(group, node)


@dataclass
class Scene:
    """A user's scaled groups, and an autoscaler that a test ticks."""

    store: Store
    user: User
    provider: FakeProvider
    now: int = 1_800_000_000_000
    scalers: list[Autoscaler] = field(default_factory=list)

    def scaler(self, *, interval_s: float = LONG_S, cooldown_s: float = 0) -> Autoscaler:
        made = Autoscaler(
            self.store,
            self.provider,
            interval_s=interval_s,
            cooldown_s=cooldown_s,
            clock=lambda: self.now,
        )
        self.scalers.append(made)
        return made

    def group(self, *, user: str | None = None, **numbers: int) -> str:
        """A registered group with a rule; its id."""
        group_id = str(uuid.uuid4())
        self.store.groups.put(group_id, "sims", "org", "project")
        group = LocalProvider(self.store.groups).lookup(group_id)
        assert group is not None
        values = {"min_replicas": 0, "max_replicas": 5, "idle_threshold_seconds": 0} | numbers
        self.store.rules.create(user or self.user.id, group, **values)
        return group_id

    def submit(self, group_id: str, count: int, user: str | None = None) -> list[str]:
        jobs = self.store.submit(user or self.user.id, [spec(container_group_id=group_id)] * count)
        return [job.id for job in jobs]

    def finish_one(self, group_id: str) -> None:
        lease = self.store.lease(self.user.id, group_id, "node-1", uuid.uuid4().hex)
        assert lease is not None
        self.store.finish(lease.job.id, Holder("node-1", lease.secret), Outcome.COMPLETED)

    def tick(self, scaler: Autoscaler) -> None:
        """One tick, and what it has begun."""
        scaler.tick()
        self.settle()

    def settle(self) -> None:
        def nobody_works() -> bool:
            return not any(
                thread.name.removeprefix("scale-") not in self.provider.holds
                for thread in threading.enumerate()
                if thread.name.startswith("scale-")
            )

        wait_until(nobody_works, "every evaluation that was begun has ended")

    def replicas(self, group_id: str) -> int:
        return self.store.groups.get(group_id).group.running_replicas

    def actions(self, group_id: str) -> list[Action]:
        """What was decided, the oldest first."""
        return [one.decision.action for one in reversed(self.store.rules.decisions(group_id))]

    def lookups(self, group_id: str) -> int:
        return self.provider.calls.count(("lookup", group_id, None))


@pytest.fixture
def scene(store: Store, user: User) -> Iterator[Scene]:
    made = Scene(store, user, FakeProvider(store))
    yield made
    made.provider.go.set()
    made.provider.holds.clear()
    made.settle()


def test_a_group_grows_with_its_queue_and_goes_back_to_zero(scene: Scene) -> None:
    group, scaler = scene.group(), scene.scaler(interval_s=0.1)
    scene.tick(scaler)
    assert scene.replicas(group) == 0
    scene.submit(group, 3)
    scene.tick(scaler)
    assert scene.replicas(group) == 3
    scene.submit(group, 30)
    scene.tick(scaler)
    assert scene.replicas(group) == 5
    for _ in range(31):
        scene.finish_one(group)
    wait_until(lambda: scene.tick(scaler) or scene.replicas(group) == 2, "two jobs need two replicas")
    for _ in range(2):
        scene.finish_one(group)
    wait_until(lambda: scene.tick(scaler) or scene.replicas(group) == 0, "no job needs none")
    assert scene.store.groups.get(group).group.state is GroupState.STOPPED
    assert [action for action in scene.actions(group) if action is not Action.NONE] == [
        Action.START,
        Action.SCALE_OUT,
        Action.SCALE_IN,
        Action.STOP,
    ]
    assert scene.provider.calls.count(("start", group, None)) == 1
    assert scene.provider.calls.count(("stop", group, None)) == 1


def test_a_submit_is_seen_at_once_whatever_the_interval(scene: Scene) -> None:
    group, scaler = scene.group(), scene.scaler(interval_s=LONG_S)
    scene.tick(scaler)
    for count in (1, 2):
        scene.submit(group, 1)
        scene.tick(scaler)
        assert scene.replicas(group) == count


def test_an_end_is_seen_soon_whatever_the_interval(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLE_S", 0.05)
    group, scaler = scene.group(), scene.scaler(interval_s=LONG_S)
    scene.submit(group, 1)
    scene.tick(scaler)
    assert scene.replicas(group) == 1
    scene.finish_one(group)
    wait_until(lambda: scene.tick(scaler) or scene.replicas(group) == 0, "the group is stopped")


def test_a_quiet_queue_does_not_bother_the_provider(scene: Scene) -> None:
    group, scaler = scene.group(), scene.scaler(interval_s=LONG_S)
    scene.submit(group, 2)
    for _ in range(5):
        scene.tick(scaler)
    assert scene.lookups(group) == 1
    scene.store.lease(scene.user.id, group, "node-1", uuid.uuid4().hex)
    scene.tick(scaler)  # a job that moves from waiting to a node changes nothing
    assert scene.lookups(group) == 1


def test_a_changed_rule_is_evaluated_at_once(scene: Scene) -> None:
    group, scaler = scene.group(max_replicas=1), scene.scaler(interval_s=LONG_S)
    scene.submit(group, 4)
    scene.tick(scaler)
    assert scene.replicas(group) == 1
    scene.store.rules.update(group, max_replicas=3)
    scene.tick(scaler)
    assert scene.replicas(group) == 3
    scene.store.rules.update(group, max_replicas=2)
    scene.tick(scaler)
    assert scene.replicas(group) == 2


def test_a_minimum_runs_without_any_job(scene: Scene) -> None:
    group = scene.group(min_replicas=2)
    scene.tick(scene.scaler())
    assert scene.replicas(group) == 2


def test_shrinking_waits_for_the_cool_down_and_then_happens(scene: Scene) -> None:
    group, scaler = scene.group(), scene.scaler(interval_s=0.1, cooldown_s=60)
    scene.submit(group, 1)
    scene.tick(scaler)
    scene.finish_one(group)
    wait_until(lambda: scene.tick(scaler) or Action.HOLD in scene.actions(group), "shrinking is held back")
    assert scene.replicas(group) == 1
    scene.submit(group, 1)
    scene.submit(group, 1)
    scene.tick(scaler)
    assert scene.replicas(group) == 2  # growing is not
    for _ in range(2):
        scene.finish_one(group)
    scene.now += 59_999
    scene.tick(scaler)
    assert scene.replicas(group) == 2
    scene.now += 1
    wait_until(lambda: scene.tick(scaler) or scene.replicas(group) == 0, "the cool-down is over")


def test_finished_jobs_keep_their_nodes_for_the_idle_threshold(scene: Scene) -> None:
    group, scaler = scene.group(idle_threshold_seconds=3600), scene.scaler(interval_s=0.1)
    scene.submit(group, 2)
    scene.tick(scaler)
    for _ in range(2):
        scene.finish_one(group)
    before = scene.lookups(group)
    wait_until(lambda: scene.tick(scaler) or scene.lookups(group) > before + 1, "it is evaluated again")
    assert scene.replicas(group) == 2


def test_only_the_jobs_of_the_rules_own_user_count(scene: Scene) -> None:
    other = scene.store.users.create("other")
    group, scaler = scene.group(), scene.scaler(interval_s=0.1)
    scene.submit(group, 4, user=other.id)
    for _ in range(3):
        scene.tick(scaler)
    assert scene.replicas(group) == 0


def test_a_group_that_is_gone_drops_its_rule(scene: Scene) -> None:
    gone, left, scaler = scene.group(), scene.group(), scene.scaler(interval_s=0.1)
    scene.tick(scaler)
    scene.store.groups.delete(gone)
    scene.submit(gone, 1)
    wait_until(
        lambda: scene.tick(scaler) or [one.container_group_id for one in scene.store.rules.list()] == [left],
        "the rule is dropped",
    )
    [told], _ = scene.store.audit.page(scene.user.id)
    assert (told.deed.username, told.deed.action) == ("autoscaler", module.DROPPED)
    assert told.deed.target.startswith(gone)


def test_a_group_that_goes_while_it_is_scaled_is_looked_for_again_before_its_rule_is_dropped(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, scaler = scene.group(), scene.scaler(interval_s=0.1)
    scene.submit(group, 1)

    def gone(_group: ContainerGroup, _replicas: int) -> None:
        raise NotFoundError("404")

    monkeypatch.setattr(scene.provider, "scale", gone)
    scene.tick(scaler)
    assert [one.container_group_id for one in scene.store.rules.list()] == [group]
    assert [one.decision.action for one in scene.store.rules.decisions(group)] == [Action.FAILED]
    scene.store.groups.delete(group)
    wait_until(lambda: scene.tick(scaler) or not scene.store.rules.list(), "the rule is dropped")


@pytest.mark.parametrize(
    "error", [ProviderError("the cloud says 503"), UnavailableError("redis"), ValueError("a defect")]
)
def test_a_failing_provider_is_noted_left_alone_for_a_while_and_tried_again(
    scene: Scene, error: Exception
) -> None:
    group, scaler = scene.group(), scene.scaler(interval_s=0.2)
    scene.submit(group, 2)
    scene.provider.fails[group] = error
    scene.tick(scaler)
    [kept] = scene.store.rules.decisions(group)
    assert (kept.decision.action, kept.decision.waiting, kept.decision.wanted) == (Action.FAILED, 2, None)
    assert str(error) in kept.decision.reason
    scene.tick(scaler)
    assert scene.lookups(group) == 1
    del scene.provider.fails[group]
    wait_until(lambda: scene.tick(scaler) or scene.replicas(group) == 2, "it is tried again")


def test_one_failing_or_silent_group_never_delays_another(scene: Scene) -> None:
    silent, failing, well = scene.group(), scene.group(), scene.group()
    scaler = scene.scaler(interval_s=0.1)
    scene.provider.holds.add(silent)
    scene.provider.fails[failing] = ProviderError("503")
    for group in (silent, failing, well):
        scene.submit(group, 1)
    scene.tick(scaler)
    assert scene.provider.entered.acquire(timeout=10)
    assert scene.replicas(well) == 1
    scene.submit(well, 1)
    scene.tick(scaler)
    assert scene.replicas(well) == 2
    assert scene.lookups(silent) == 1  # it is asked once, not once a tick
    scene.provider.go.set()
    wait_until(lambda: scene.replicas(silent) == 1, "its answer counts when it comes")


def test_many_silent_groups_leave_room_for_the_others(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_AT_ONCE", 3)
    groups = [scene.group() for _ in range(5)]
    for group in groups:
        scene.submit(group, 1)
    scene.provider.holds.update(groups)
    scaler = scene.scaler(interval_s=0.1)
    scaler.tick()
    scaler.tick()
    for _ in range(3):
        assert scene.provider.entered.acquire(timeout=10)
    assert sum(scene.lookups(group) for group in groups) == 3
    scene.provider.go.set()
    scene.provider.holds.clear()
    scene.settle()
    wait_until(
        lambda: scene.tick(scaler) or all(scene.replicas(group) == 1 for group in groups), "all are scaled"
    )


def test_one_of_several_processes_acts(scene: Scene) -> None:
    group, first, second = scene.group(), scene.scaler(), scene.scaler()
    scene.tick(first)
    before = scene.lookups(group)
    scene.submit(group, 1)
    scene.tick(second)
    assert (scene.lookups(group), scene.replicas(group)) == (before, 0)
    first.close()
    scene.tick(second)
    assert scene.replicas(group) == 1
    scene.submit(group, 1)
    scene.tick(first)
    assert scene.replicas(group) == 1


def test_a_rule_deleted_while_it_is_evaluated_is_no_failure(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, scaler = scene.group(), scene.scaler()
    rules = scene.store.rules
    real: Callable[..., list[ScalingRule]] = rules.list

    def listed_and_gone(user_id: str | None = None) -> list[ScalingRule]:
        found = real(user_id)
        rules.delete(group)
        return found

    monkeypatch.setattr(rules, "list", listed_and_gone)
    scene.tick(scaler)
    assert scene.lookups(group) == 0
    assert rules.decisions(group) == []


def test_the_pulse_is_as_short_as_the_interval(scene: Scene) -> None:
    assert scene.scaler(interval_s=300).pulse_s == 1.0
    assert scene.scaler(interval_s=0.1).pulse_s == 0.1
