"""Scaling rules, and what was decided by them."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable

import redis

from kelpie.errors import ConflictError, InvalidInputError, NotFoundError
from kelpie.scaling import (
    MAX_IDLE_THRESHOLD_S,
    MAX_REPLICAS,
    ContainerGroup,
    Decision,
    KeptDecision,
    ScalingRule,
)
from kelpie.store import keys
from kelpie.store.clock import wall_ms
from kelpie.store.codec import Fields, fields_of, names, text
from kelpie.store.connection import translated
from kelpie.store.scripts import Scripts

MAX_DECISIONS = 200
"""Decisions that are kept per rule; like ones in a row are one."""


class Rules:
    """One rule per container group; it belongs to the user whose jobs count."""

    def __init__(self, client: redis.Redis, scripts: Scripts, clock: Callable[[], int] = wall_ms) -> None:
        self._client = client
        self._scripts = scripts
        self._clock = clock

    def create(
        self,
        user_id: str,
        group: ContainerGroup,
        *,
        min_replicas: int,
        max_replicas: int,
        idle_threshold_seconds: int,
    ) -> ScalingRule:
        """A new rule. Raises ConflictError when the group has one, InvalidInputError for unfit numbers."""
        _check(min_replicas, max_replicas, idle_threshold_seconds)
        if min_replicas > max_replicas:
            raise _upside_down()
        try:
            self._scripts.run(
                "create_rule",
                (keys.rule(group.id), keys.RULES, keys.user_rules(user_id)),
                id=group.id,
                user_id=user_id,
                organization=group.organization,
                project=group.project,
                name=group.name,
                low=min_replicas,
                high=max_replicas,
                idle_s=idle_threshold_seconds,
                created=self._clock(),
            )
        except ConflictError:
            raise ConflictError(
                f"The container group {group.id} has a scaling rule already; change that one, or delete it."
            ) from None
        return self.get(group.id)

    def get(self, rule_id: str, *, user_id: str | None = None) -> ScalingRule:
        """A rule of that user (None: of anybody). Raises NotFoundError."""
        with translated():
            fields = fields_of(self._client.hgetall(keys.rule(rule_id)))
        if not fields or user_id not in (None, fields["user_id"]):
            raise no_such_rule(rule_id)
        return _decode(rule_id, fields)

    def list(self, user_id: str | None = None) -> list[ScalingRule]:
        """The rules of a user (None: of all), the oldest first."""
        index = keys.RULES if user_id is None else keys.user_rules(user_id)
        with translated():
            ids = names(self._client.zrange(index, 0, -1))
            reading = self._client.pipeline(transaction=False)
            for rule_id in ids:
                reading.hgetall(keys.rule(rule_id))
            found = [fields_of(raw) for raw in reading.execute()]
        # One that was deleted since its id was read has no fields.
        return [_decode(rule_id, fields) for rule_id, fields in zip(ids, found, strict=True) if fields]

    def update(
        self,
        rule_id: str,
        *,
        user_id: str | None = None,
        min_replicas: int | None = None,
        max_replicas: int | None = None,
        idle_threshold_seconds: int | None = None,
    ) -> ScalingRule:
        """A rule with some of its numbers changed (None: as it is).

        Raises NotFoundError, and InvalidInputError for unfit numbers; nothing is changed then.
        """
        _check(min_replicas or 0, max_replicas or 0, idle_threshold_seconds or 0)
        try:
            done = self._scripts.run(
                "update_rule",
                (keys.rule(rule_id),),
                id=rule_id,
                user_id=user_id or "",
                low=_or_empty(min_replicas),
                high=_or_empty(max_replicas),
                idle_s=_or_empty(idle_threshold_seconds),
                updated=self._clock(),
            )
        except NotFoundError:
            raise no_such_rule(rule_id) from None
        if not done:
            raise _upside_down()
        return self.get(rule_id, user_id=user_id)

    def delete(self, rule_id: str, *, user_id: str | None = None) -> None:
        """Ends a rule; its group stays as it is. Raises NotFoundError."""
        owner = self.get(rule_id, user_id=user_id).user_id
        done = self._scripts.run(
            "delete_rule",
            (keys.rule(rule_id), keys.RULES, keys.user_rules(owner), keys.decisions(rule_id)),
            id=rule_id,
            user_id=owner,
        )
        if not done:
            raise no_such_rule(rule_id)

    def delete_all(self, *, user_id: str | None = None) -> None:
        """Ends every rule of that user (None: of every user)."""
        for rule in self.list(user_id):
            try:
                self.delete(rule.container_group_id)
            except NotFoundError:  # somebody else was faster
                continue

    def record(self, rule: ScalingRule, decision: Decision, *, now: int) -> bool:
        """Keeps what was decided at ``now`` (ms); False when the rule is gone."""
        kept = self._scripts.run(
            "record_decision",
            (keys.rule(rule.container_group_id), keys.decisions(rule.container_group_id)),
            decision=json.dumps(decision.to_wire(), separators=(",", ":"), sort_keys=True),
            time=now,
            scaled=int(decision.acts),
            limit=MAX_DECISIONS,
        )
        return bool(kept)

    def decisions(self, rule_id: str, *, limit: int = MAX_DECISIONS) -> builtins.list[KeptDecision]:
        """What was decided, the newest first; at most 200 are kept."""
        with translated():
            entries = self._client.lrange(keys.decisions(rule_id), 0, limit - 1)
        return [_decode_decision(text(entry)) for entry in entries]


def no_such_rule(rule_id: str) -> NotFoundError:
    """What is raised for a rule that does not exist, or not for this caller."""
    return NotFoundError(f"There is no scaling rule {rule_id[:64]!r}.")


def _check(low: int, high: int, idle_s: int) -> None:
    for field, value, limit in (
        ("min_replicas", low, MAX_REPLICAS),
        ("max_replicas", high, MAX_REPLICAS),
        ("idle_threshold_seconds", idle_s, MAX_IDLE_THRESHOLD_S),
    ):
        if not 0 <= value <= limit:
            problem = f"must be 0…{limit}"
            raise InvalidInputError(f"{field} is {value}; it {problem}.", errors=((field, problem),))


def _upside_down() -> InvalidInputError:
    problem = "must not be above max_replicas"
    return InvalidInputError(f"min_replicas {problem}.", errors=(("min_replicas", problem),))


def _or_empty(value: int | None) -> int | str:
    return "" if value is None else value


def _decode(rule_id: str, fields: Fields) -> ScalingRule:
    return ScalingRule(
        container_group_id=rule_id,
        user_id=fields["user_id"],
        organization=fields["organization"],
        project=fields["project"],
        container_group_name=fields["container_group_name"],
        min_replicas=int(fields["min_replicas"]),
        max_replicas=int(fields["max_replicas"]),
        idle_threshold_seconds=int(fields["idle_threshold_seconds"]),
        created=int(fields["created"]),
        updated=int(fields["updated"]),
        scaled=int(fields["scaled"]) if "scaled" in fields else None,
    )


def _decode_decision(entry: str) -> KeptDecision:
    first, last, count, decision = entry.split(" ", 3)
    return KeptDecision(Decision.from_wire(json.loads(decision)), int(first), int(last), int(count))
