"""Scaling rules and container groups as plain data, and the decision that a rule asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from kelpie.job import from_iso, iso

MAX_REPLICAS = 500
MAX_IDLE_THRESHOLD_S = 3600
MAX_SLOTS = 1000


class GroupState(StrEnum):
    """Whether a container group runs its replicas."""

    RUNNING = "running"
    STOPPED = "stopped"  # it runs none, whatever its replica count says


@dataclass(frozen=True, slots=True)
class ContainerGroup:
    """A container group as its provider describes it."""

    id: str  # also the container_group_id of its queue
    name: str
    organization: str
    project: str
    slots: int = 1  # jobs that one replica runs at once
    state: GroupState = GroupState.STOPPED
    replicas: int = 0  # how many are asked for
    current: int | None = None  # how many there are; None when nobody has said so lately

    @property
    def running_replicas(self) -> int:
        """How many replicas the provider has been asked to run."""
        return self.replicas if self.state is GroupState.RUNNING else 0


@dataclass(frozen=True, slots=True)
class RegisteredGroup:
    """A container group of the local provider."""

    group: ContainerGroup
    created: int  # ms since 1970 UTC
    updated: int  # ms

    def to_wire(self) -> dict[str, Any]:
        """The JSON form."""
        group = self.group
        return {
            "id": group.id,
            "name": group.name,
            "organization": group.organization,
            "project": group.project,
            "slots": group.slots,
            "state": group.state.value,
            "replicas": group.replicas,
            "current_replicas": group.current,
            "created": iso(self.created),
            "updated": iso(self.updated),
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> RegisteredGroup:
        """The reverse of :meth:`to_wire`."""
        group = ContainerGroup(
            id=wire["id"],
            name=wire["name"],
            organization=wire["organization"],
            project=wire["project"],
            slots=wire["slots"],
            state=GroupState(wire["state"]),
            replicas=wire["replicas"],
            current=wire["current_replicas"],
        )
        return cls(group, from_iso(wire["created"]) or 0, from_iso(wire["updated"]) or 0)


@dataclass(frozen=True, slots=True)
class ScalingRule:
    """How many replicas a container group may have. There is one rule per group, so it has the group's id."""

    container_group_id: str
    user_id: str  # whose jobs count
    organization: str
    project: str
    container_group_name: str
    min_replicas: int
    max_replicas: int
    idle_threshold_seconds: int  # how long a finished job still counts
    created: int  # ms since 1970 UTC
    updated: int  # ms
    scaled: int | None = None  # when the replica count was last changed, ms; not told to clients

    def to_wire(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "id": self.container_group_id,
            "user_id": self.user_id,
            "org_name": self.organization,
            "project_name": self.project,
            "container_group_id": self.container_group_id,
            "container_group_name": self.container_group_name,
            "min_replicas": self.min_replicas,
            "max_replicas": self.max_replicas,
            "idle_threshold_seconds": self.idle_threshold_seconds,
            "created": iso(self.created),
            "updated": iso(self.updated),
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> ScalingRule:
        """The reverse of :meth:`to_wire`."""
        return cls(
            container_group_id=wire["container_group_id"],
            user_id=wire["user_id"],
            organization=wire["org_name"],
            project=wire["project_name"],
            container_group_name=wire["container_group_name"],
            min_replicas=wire["min_replicas"],
            max_replicas=wire["max_replicas"],
            idle_threshold_seconds=wire["idle_threshold_seconds"],
            created=from_iso(wire["created"]) or 0,
            updated=from_iso(wire["updated"]) or 0,
        )


@dataclass(frozen=True, slots=True)
class Demand:
    """How many jobs a queue has for its nodes."""

    waiting: int  # claimable now: pending, or running and waiting for its next node
    leased: int  # on a node
    finished: int = 0  # ended on a node within the idle threshold

    @property
    def eligible(self) -> int:
        """Jobs that justify a slot each."""
        return self.waiting + self.leased + self.finished


class Action(StrEnum):
    """What follows from a decision."""

    NONE = "none"  # the group has what it needs
    SCALE_OUT = "scale_out"
    SCALE_IN = "scale_in"
    START = "start"  # from stopped
    STOP = "stop"  # at zero
    HOLD = "hold"  # fewer are needed, but the cool-down is not over
    FAILED = "failed"  # the provider could not be asked, or did not do it


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about a container group, and every number behind it."""

    action: Action
    reason: str
    waiting: int
    leased: int
    finished: int
    eligible: int
    slots: int | None  # None, as the next five, when the provider did not answer
    state: GroupState | None
    replicas: int | None  # that the provider was running when it was asked
    current: int | None
    wanted: int | None
    min_replicas: int
    max_replicas: int

    @property
    def acts(self) -> bool:
        """Whether the provider has to do something."""
        return self.action in {Action.SCALE_OUT, Action.SCALE_IN, Action.START, Action.STOP}

    def to_wire(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Decision:
        """The reverse of :meth:`to_wire`."""
        values = {field.name: wire.get(field.name) for field in fields(cls)}
        state = values["state"]
        return cls(
            **{
                **values,
                "action": Action(str(values["action"])),
                "state": None if state is None else GroupState(str(state)),
            }  # type: ignore[arg-type]  # written by to_wire
        )


@dataclass(frozen=True, slots=True)
class KeptDecision:
    """A decision as it is kept: the same one again is counted, not kept twice."""

    decision: Decision
    first: int  # ms since 1970 UTC
    last: int  # ms
    count: int

    def to_wire(self) -> dict[str, Any]:
        """The JSON form."""
        times = {"time": iso(self.first), "last": iso(self.last), "count": self.count}
        return {**self.decision.to_wire(), **times}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> KeptDecision:
        """The reverse of :meth:`to_wire`."""
        first, last = from_iso(wire["time"]) or 0, from_iso(wire["last"]) or 0
        return cls(Decision.from_wire(wire), first, last, wire["count"])


def clamp_replicas(eligible: int, slots: int, low: int, high: int) -> int:
    """The replicas that ``eligible`` jobs need, within ``low`` and ``high``."""
    return max(low, min(-(-eligible // slots), high))


def decide(
    rule: ScalingRule, group: ContainerGroup, demand: Demand, *, now: int, cooldown_ms: int
) -> Decision:
    """What ``rule`` asks for at ``now`` (ms).

    Growing is never delayed. Shrinking waits until the last change is ``cooldown_ms`` old, so that a queue
    that comes and goes does not start and stop machines all the time.
    """
    wanted = clamp_replicas(demand.eligible, group.slots, rule.min_replicas, rule.max_replicas)
    replicas = group.running_replicas
    reason = _reason(rule, group, demand, wanted)
    # A clock that went back must not hold a group for ever: a change in the future counts as old.
    left_ms = 0 if rule.scaled is None or rule.scaled > now else rule.scaled + cooldown_ms - now
    if wanted > replicas:
        action = Action.START if group.state is GroupState.STOPPED else Action.SCALE_OUT
    elif wanted == replicas:
        action = Action.NONE
    elif left_ms > 0:
        action = Action.HOLD
        reason += "; it was changed just now, and shrinks when its cool-down is over"
    else:
        action = Action.STOP if wanted == 0 else Action.SCALE_IN
    return Decision(
        action=action,
        reason=reason,
        **_numbers(rule, demand),
        slots=group.slots,
        state=group.state,
        replicas=replicas,
        current=group.current,
        wanted=wanted,
    )


def failed(rule: ScalingRule, demand: Demand, reason: str) -> Decision:
    """That nothing could be decided or done, and why."""
    return Decision(
        action=Action.FAILED,
        reason=reason,
        **_numbers(rule, demand),
        slots=None,
        state=None,
        replicas=None,
        current=None,
        wanted=None,
    )


def _numbers(rule: ScalingRule, demand: Demand) -> dict[str, Any]:
    return {
        "waiting": demand.waiting,
        "leased": demand.leased,
        "finished": demand.finished,
        "eligible": demand.eligible,
        "min_replicas": rule.min_replicas,
        "max_replicas": rule.max_replicas,
    }


def _reason(rule: ScalingRule, group: ContainerGroup, demand: Demand, wanted: int) -> str:
    needed = -(-demand.eligible // group.slots)
    text = (
        f"{demand.eligible} jobs ({demand.waiting} waiting, {demand.leased} on nodes, {demand.finished} "
        f"ended in the last {rule.idle_threshold_seconds} s) at {group.slots} per replica need {needed}"
    )
    if wanted < needed:
        return f"{text}; the rule allows {rule.max_replicas} at most"
    if wanted > needed:
        return f"{text}; the rule asks for {rule.min_replicas} at least"
    return text
