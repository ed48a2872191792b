"""The local provider: its groups are what the admin registered, their nodes are what a host of theirs runs.

The record in Redis is all there is between the autoscaler, which writes what is wanted, and the host
(``kelpie up --autoscale``), which asks once a second what that is and says what it runs. Either may die: the
host goes on with what it was told last, and is told again when it is back.
"""

from __future__ import annotations

from kelpie.errors import NotFoundError
from kelpie.providers.base import ProviderError
from kelpie.scaling import ContainerGroup, GroupState
from kelpie.store.groups import Groups


class LocalProvider:
    """Container groups of hosts that report to this API."""

    name = "local"

    def __init__(self, groups: Groups) -> None:
        self._groups = groups

    def lookup(
        self, group_id: str, *, organization: str | None = None, project: str | None = None
    ) -> ContainerGroup | None:
        """See Provider."""
        try:
            group = self._groups.get(group_id).group
        except NotFoundError:
            return None
        matches = organization in (None, group.organization) and project in (None, group.project)
        return group if matches else None

    def scale(self, group: ContainerGroup, replicas: int) -> None:
        """See Provider."""
        self._groups.scale(group.id, replicas=replicas)

    def start(self, group: ContainerGroup) -> None:
        """See Provider."""
        self._groups.scale(group.id, state=GroupState.RUNNING)

    def stop(self, group: ContainerGroup) -> None:
        """See Provider."""
        self._groups.scale(group.id, state=GroupState.STOPPED)

    def reallocate(self, group: ContainerGroup, node: str) -> None:
        """See Provider."""
        if not self._groups.reallocate(group.id, node):
            raise ProviderError(f"Too many nodes of {group.id} wait to be replaced; its host may be gone.")
