"""SaladCloud: container groups of its public API (https://docs.salad.com/reference/saladcloud-api).

Its API finds groups by name, Kelpie by id, which is what nodes are told. A name that an id was found under
is remembered, and checked with every answer: a group that was made anew under that name is another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kelpie.errors import NotFoundError
from kelpie.providers.base import ProviderError, UnknownPlaceError
from kelpie.providers.cloud import MERGE_PATCH, Cloud, RefusedError, segment
from kelpie.scaling import ContainerGroup, GroupState

STOPPED = frozenset({"stopped", "failed", "succeeded"})
"""Statuses of a group that runs nothing until it is started."""

ALREADY = frozenset({400, 409})
"""How a start of what runs, or a stop of what is stopped, may be refused."""

MAX_REMEMBERED = 10_000


class SaladProvider:
    """Scales container groups with the operator's API key."""

    name = "salad"

    def __init__(self, cloud: Cloud, *, slots: int, organization: str | None, project: str | None) -> None:
        """``organization`` and ``project`` are where groups are looked for when a caller names none."""
        self._cloud = cloud
        self._slots = slots
        self._home = (organization, project)
        self._names: dict[tuple[str, str, str], str] = {}

    def lookup(
        self, group_id: str, *, organization: str | None = None, project: str | None = None
    ) -> ContainerGroup | None:
        """See Provider. Without an organization and a project: in those of the settings."""
        organization, project = organization or self._home[0], project or self._home[1]
        if not organization or not project:
            return None
        place = (organization, project, group_id)
        try:
            if (name := self._names.get(place)) is not None:
                found = self._cloud.get(_path(organization, project, name))
                if found.get("id") == group_id:
                    return self._decode(found, organization, project)
        except NotFoundError:  # renamed or deleted: the list knows
            pass
        self._names.pop(place, None)
        try:
            listed = self._cloud.get(_path(organization, project)).get("items")
        except NotFoundError:  # a project without groups has an empty list
            raise UnknownPlaceError(
                f"SaladCloud knows no project {project!r} of an organization {organization!r}, "
                "or Kelpie's key may not see it."
            ) from None
        if not isinstance(listed, list):
            raise ProviderError("SaladCloud answered with a list of container groups that is none.")
        for found in listed:
            if isinstance(found, dict) and found.get("id") == group_id:
                group = self._decode(found, organization, project)
                if len(self._names) >= MAX_REMEMBERED:
                    self._names.clear()
                self._names[place] = group.name
                return group
        return None

    def scale(self, group: ContainerGroup, replicas: int) -> None:
        """See Provider."""
        self._cloud.call("PATCH", _of(group), {"replicas": replicas}, content_type=MERGE_PATCH)

    def start(self, group: ContainerGroup) -> None:
        """See Provider."""
        self._turn(group, "start", GroupState.RUNNING)

    def stop(self, group: ContainerGroup) -> None:
        """See Provider."""
        self._turn(group, "stop", GroupState.STOPPED)

    def reallocate(self, group: ContainerGroup, node: str) -> None:
        """See Provider. ``node`` is an instance's id or its machine's, which is what nodes are called."""
        instances = self._cloud.get(f"{_of(group)}/instances").get("instances")
        for one in instances if isinstance(instances, list) else []:
            if not isinstance(one, Mapping):
                continue
            instance = one.get("id") or one.get("instance_id")
            if isinstance(instance, str) and node in {instance, one.get("machine_id")}:
                self._cloud.call("POST", f"{_of(group)}/instances/{segment(instance)}/reallocate")
                return

    def _turn(self, group: ContainerGroup, verb: str, state: GroupState) -> None:
        try:
            self._cloud.call("POST", f"{_of(group)}/{verb}")
        except RefusedError as error:
            if error.status not in ALREADY:
                raise
            # A call whose answer was lost was carried out all the same.
            found = self._cloud.get(_of(group))
            if self._decode(found, group.organization, group.project).state is not state:
                raise

    def _decode(self, wire: Mapping[str, Any], organization: str, project: str) -> ContainerGroup:
        state = wire.get("current_state")
        status = state.get("status") if isinstance(state, Mapping) else None
        counts = state.get("instance_status_counts") if isinstance(state, Mapping) else None
        running = counts.get("running_count") if isinstance(counts, Mapping) else None
        replicas, name = wire.get("replicas"), wire.get("name")
        if not isinstance(name, str) or not isinstance(replicas, int) or not isinstance(status, str):
            raise ProviderError(
                "SaladCloud answered with a container group without name, replicas or status."
            )
        return ContainerGroup(
            id=str(wire.get("id")),
            name=name,
            organization=organization,
            project=project,
            slots=self._slots,
            state=GroupState.STOPPED if status in STOPPED else GroupState.RUNNING,
            replicas=replicas,
            current=running if isinstance(running, int) else None,
        )


def _of(group: ContainerGroup) -> str:
    return _path(group.organization, group.project, group.name)


def _path(organization: str, project: str, name: str | None = None) -> str:
    path = f"/organizations/{segment(organization)}/projects/{segment(project)}/containers"
    return path if name is None else f"{path}/{segment(name)}"
