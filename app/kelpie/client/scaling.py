"""The client's part about scaling: rules, decisions, container groups."""

from __future__ import annotations

from collections.abc import Iterable

from kelpie.client.transport import Transport, segment
from kelpie.errors import ConflictError, NotFoundError
from kelpie.scaling import Decision, KeptDecision, RegisteredGroup, ScalingRule

_CONFLICT_TRIES = 3


class ScalingCalls(Transport):
    """Mixed into :class:`kelpie.Client`."""

    def scaling_rules(self) -> list[ScalingRule]:
        """Your scaling rules, the oldest first; the admin's key sees all users'."""
        return [ScalingRule.from_wire(wire) for wire in self._call("GET", "/scaling-rules")["rules"]]

    def scaling_rule(self, group: str) -> ScalingRule:
        """The scaling rule of a container group. NotFoundError when you have none."""
        return ScalingRule.from_wire(self._call("GET", _rule_path(group)))

    def set_scaling_rule(
        self,
        group: str,
        *,
        min_replicas: int | None = None,
        max_replicas: int | None = None,
        idle_threshold_s: int | None = None,
    ) -> ScalingRule:
        """Make the scaling rule of a container group, or change the numbers given (None: as they are).

        A new rule has 0 replicas at least, 1 at most, and counts finished jobs for 0 s unless told otherwise.
        InvalidInputError when the provider knows no such group, ConflictError when another user has its rule.
        """
        given = {
            "min_replicas": min_replicas,
            "max_replicas": max_replicas,
            "idle_threshold_seconds": idle_threshold_s,
        }
        change = {name: value for name, value in given.items() if value is not None}
        for attempt in range(1, _CONFLICT_TRIES + 1):
            try:
                if change:
                    return ScalingRule.from_wire(self._call("PATCH", _rule_path(group), body=change))
                return self.scaling_rule(group)
            except NotFoundError:
                low = min_replicas or 0
                new = {"min_replicas": low, "max_replicas": max(1, low), "idle_threshold_seconds": 0}
                try:
                    body = {"container_group_id": group, **new, **change}
                    return ScalingRule.from_wire(self._call("POST", "/scaling-rules", body=body))
                except ConflictError:  # somebody made one meanwhile; if it is ours, it can be changed
                    if attempt == _CONFLICT_TRIES:
                        raise
        raise AssertionError("the last try returns or raises")

    def delete_scaling_rule(self, group: str) -> None:
        """Delete a scaling rule; its container group stays as it is. NotFoundError when you have none."""
        self._call("DELETE", _rule_path(group), gone_is_done=True)

    def scaling_preview(self, group: str) -> Decision:
        """What the rule asks for at this moment; nothing is changed."""
        return Decision.from_wire(self._call("GET", f"{_rule_path(group)}/decision"))

    def scaling_decisions(self, group: str, *, limit: int = 50) -> list[KeptDecision]:
        """What was decided by the rule, the newest first."""
        answer = self._call("GET", f"{_rule_path(group)}/decisions", query={"limit": limit})
        return [KeptDecision.from_wire(wire) for wire in answer["decisions"]]

    def container_groups(self) -> list[RegisteredGroup]:
        """The container groups of your organization and project; the admin's key sees all."""
        found = self._call("GET", "/container-groups")["container_groups"]
        return [RegisteredGroup.from_wire(wire) for wire in found]

    def put_container_group(
        self, group: str, *, name: str, organization: str, project: str, slots: int = 1
    ) -> RegisteredGroup:
        """Register a container group of the local provider, or rename it (admin only)."""
        body = {"name": name, "organization": organization, "project": project, "slots": slots}
        return RegisteredGroup.from_wire(self._call("PUT", _group_path(group), body=body))

    def delete_container_group(self, group: str) -> None:
        """Forget a container group of the local provider; its scaling rule ends (admin only)."""
        self._call("DELETE", _group_path(group), gone_is_done=True)

    def report_nodes(self, group: str, nodes: Iterable[str]) -> tuple[int, frozenset[str]]:
        """What the host of a container group says: which nodes it runs (admin only).

        How many it is to run, and which of its nodes it is to replace by others.
        """
        answer = self._call("PUT", f"{_group_path(group)}/nodes", body={"nodes": sorted(nodes)})
        return int(answer["replicas"]), frozenset(map(str, answer["reallocate"]))


def _rule_path(group: str) -> str:
    return f"/scaling-rules/{segment(group)}"


def _group_path(group: str) -> str:
    return f"/container-groups/{segment(group)}"
