"""The autoscaler: gives container groups the replicas that their queues need, as scaling rules say.

A ticker of the platform process looks at the length of every scaled queue once a second, all in one round
trip, and has a rule evaluated in a thread of its own when its queue calls for another count than the last
one, when its interval is over, or when something it waited for is due. Not RQ: a decision that waits behind
others, or that is retried later, is about a queue that has changed since; it must be made anew. And RQ's
workers take one task at a time, so that one provider that does not answer would hold up every other group,
and webhooks too.

Several platform processes may run; the one that holds the lock acts. What it tells a provider is a count and
not a change, so that two who both believe to hold the lock for a moment do no harm.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from kelpie.errors import NotFoundError
from kelpie.providers.assess import Assessment, assess, measure
from kelpie.providers.base import Provider, ProviderError
from kelpie.scaling import Action, Decision, Demand, ScalingRule, clamp_replicas, failed
from kelpie.store import Deed, Store
from kelpie.store.clock import wall_ms

PULSE_S = 1.0
"""How soon a submit or a completion is seen."""

SETTLE_S = 5.0
"""A queue that gets shorter is looked at this often at most: the provider is asked each time."""

LOCK_TTL_S = 5.0
MAX_AT_ONCE = 64
"""Rules that are evaluated at the same time; as many groups may have a provider that does not answer."""

MAX_REASON_CHARS = 500

ACTOR = "autoscaler"
DROPPED = "drop a scaling rule: its container group is gone"

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Watch:
    """What is remembered of a rule between two evaluations."""

    rule: ScalingRule
    evaluated: ScalingRule | None = None  # as it was when it was last evaluated; None: never
    evaluated_s: float = 0.0  # when that was, on the monotonic clock
    due_s: float = 0.0  # when it is to be evaluated even if nothing changes
    backlog: Demand | None = None  # that was last evaluated
    asked: int = 0  # replicas that the provider runs or was asked to run then
    slots: int = 1
    failures: int = 0  # in a row
    working: bool = False

    def is_due(self, backlog: Demand, now_s: float, settle_s: float) -> bool:
        """Whether the rule must be evaluated for a queue that is so long now."""
        if now_s >= self.due_s or self.evaluated != _numbers(self.rule):
            return True
        if self.failures:  # the provider is to be left alone until then
            return False
        rule = self.rule
        needed = clamp_replicas(backlog.eligible, self.slots, rule.min_replicas, rule.max_replicas)
        if needed > self.asked:
            return True
        return needed < self.asked and backlog != self.backlog and now_s >= self.evaluated_s + settle_s


class Autoscaler:
    """Evaluates every scaling rule in time. ``tick`` is called by one thread."""

    def __init__(
        self,
        store: Store,
        provider: Provider,
        *,
        interval_s: float,
        cooldown_s: float,
        clock: Callable[[], int] = wall_ms,
    ) -> None:
        self._store = store
        self._provider = provider
        self._interval_s = interval_s
        self._cooldown_s = cooldown_s
        self._clock = clock
        self._lock = store.autoscaler_lock(ttl_s=LOCK_TTL_S)
        self._watched: dict[str, _Watch] = {}

    @property
    def pulse_s(self) -> float:
        """How often ``tick`` is to be called, in seconds."""
        return min(PULSE_S, self._interval_s)

    def tick(self) -> int:
        """Begin the evaluations that are due; waits for none of them. Raises UnavailableError."""
        if not self._lock.take():
            self._watched.clear()  # what we knew is old when our turn comes
            return 0
        watched = self._look()
        backlogs = self._store.backlogs(
            [(watch.rule.user_id, watch.rule.container_group_id) for watch in watched]
        )
        now_s = time.monotonic()
        busy = sum(watch.working for watch in watched)
        settle_s = min(SETTLE_S, self._interval_s)
        # Who has been due for longest goes first, so that a full house keeps nobody out for ever.
        for watch, backlog in sorted(zip(watched, backlogs, strict=True), key=lambda pair: pair[0].due_s):
            if watch.working or not watch.is_due(backlog, now_s, settle_s):
                continue
            if busy == MAX_AT_ONCE:
                break
            busy += 1
            watch.working = True
            name = f"scale-{watch.rule.container_group_id}"
            threading.Thread(target=self._work, args=(watch, backlog), name=name, daemon=True).start()
        return 0

    def close(self) -> None:
        """Let another platform process take over at once. Raises UnavailableError."""
        self._lock.free()

    def _look(self) -> list[_Watch]:
        """A watch for each rule there is, with the rule as it is now."""
        known, self._watched = self._watched, {}
        for rule in self._store.rules.list():
            watch = known.get(rule.container_group_id) or _Watch(rule)
            watch.rule = rule
            self._watched[rule.container_group_id] = watch
        return list(self._watched.values())

    def _work(self, watch: _Watch, backlog: Demand) -> None:
        """Evaluate one rule, whatever comes of it."""
        try:
            # Read anew: since the look, the last evaluation may have ended, and it changes the cool-down.
            rule = self._store.rules.get(watch.rule.container_group_id)
            watch.evaluated, watch.evaluated_s = _numbers(rule), time.monotonic()
            watch.backlog = backlog
            pause_s = self._evaluate(watch, rule)
        except NotFoundError:  # the rule was deleted
            pause_s = self._interval_s
        except Exception as error:  # noqa: BLE001 -- a provider may raise anything; others must not suffer
            watch.failures += 1
            pause_s = min(self._interval_s, self.pulse_s * 2.0 ** min(watch.failures, 16))
            self._note_failure(watch, error, pause_s)
        else:
            watch.failures = 0
        watch.due_s = time.monotonic() + pause_s
        watch.working = False

    def _evaluate(self, watch: _Watch, rule: ScalingRule) -> float:
        """Decide and act; in how many seconds to look again even if the queue does not change."""
        now = self._clock()
        found = assess(self._store, self._provider, rule, now=now, cooldown_s=self._cooldown_s)
        if found is None:
            self._drop(rule)
            return self._interval_s
        try:
            self._act(found)
        except NotFoundError as error:  # the next look tells what is gone: the group, or its whole project
            raise ProviderError("the container group was gone when it was to be scaled") from error
        decision = found.decision
        self._store.rules.record(rule, decision, now=now)
        if decision.acts:
            log.info(
                "scaled",
                container_group_id=rule.container_group_id,
                user_id=rule.user_id,
                action=decision.action.value,
                replicas=decision.replicas,
                wanted=decision.wanted,
                reason=decision.reason,
            )
        # While fewer are needed but none is taken away yet, what is asked for is what there is.
        watch.asked = (decision.replicas if decision.action is Action.HOLD else decision.wanted) or 0
        watch.slots = found.group.slots
        return self._next_in_s(rule, decision, now)

    def _act(self, found: Assessment) -> None:
        group, decision = found.group, found.decision
        wanted = decision.wanted or 0
        match decision.action:
            case Action.SCALE_OUT | Action.SCALE_IN:
                self._provider.scale(group, wanted)
            case Action.START:
                if group.replicas != wanted:
                    self._provider.scale(group, wanted)
                self._provider.start(group)
            case Action.STOP:
                self._provider.stop(group)
            case _:
                return

    def _next_in_s(self, rule: ScalingRule, decision: Decision, now: int) -> float:
        waits = [self._interval_s]
        if decision.action is Action.HOLD and rule.scaled is not None:
            waits.append(self._cooldown_s - (now - rule.scaled) / 1000)
        if decision.finished:  # they stop to count one after another
            waits.append(rule.idle_threshold_seconds / 4)
        return max(self.pulse_s, min(waits))

    def _drop(self, rule: ScalingRule) -> None:
        """Delete the rule of a container group that is gone."""
        try:
            self._store.rules.delete(rule.container_group_id, user_id=rule.user_id)
        except NotFoundError:  # deleted meanwhile
            return
        log.warning(
            "scaling rule dropped: its container group is gone",
            container_group_id=rule.container_group_id,
            container_group_name=rule.container_group_name,
            user_id=rule.user_id,
        )
        # Its user sees it among what was done to his: nobody reads the log for him.
        group = f"{rule.container_group_id} ({rule.container_group_name})"
        self._store.audit.note([Deed(rule.user_id, ACTOR, DROPPED, target=group, via="platform")])

    def _note_failure(self, watch: _Watch, error: Exception, pause_s: float) -> None:
        rule = watch.rule
        log.warning(
            "a container group could not be scaled",
            container_group_id=rule.container_group_id,
            user_id=rule.user_id,
            failures=watch.failures,
            again_in_s=pause_s,
            error=f"{type(error).__name__}: {error}"[:MAX_REASON_CHARS],
        )
        try:
            demand = measure(self._store, rule, slots=watch.slots)
            reason = f"{type(error).__name__}: {error}"[:MAX_REASON_CHARS]
            self._store.rules.record(rule, failed(rule, demand, reason), now=self._clock())
        except Exception as second:  # noqa: BLE001 -- Redis is away too: the log has it
            log.warning("a decision was not kept", error=type(second).__name__)


def _numbers(rule: ScalingRule) -> ScalingRule:
    """A rule without what evaluating it changes."""
    return replace(rule, scaled=None)
