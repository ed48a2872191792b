"""What Kelpie asks of a compute provider."""

from __future__ import annotations

from typing import Protocol

from kelpie.errors import UnavailableError
from kelpie.scaling import ContainerGroup


class ProviderError(UnavailableError):
    """The provider cannot be asked now, or did not do what it was asked for; it may later."""


class UnknownPlaceError(ProviderError):
    """The provider knows no such organization or project: of the groups in it nothing can be said."""


class Provider(Protocol):
    """A place that runs replicas of container groups. Safe to share between threads.

    Every call bounds its own time, and may be repeated without harm. Each raises ProviderError; those that
    change a group raise NotFoundError when it is gone.
    """

    name: str  # as KELPIE_PROVIDER spells it

    def lookup(
        self, group_id: str, *, organization: str | None = None, project: str | None = None
    ) -> ContainerGroup | None:
        """The group of that id and what it runs; None when that project of the organization has no such one.

        Organization and project None: in anybody's, for providers that can tell. Raises UnknownPlaceError
        when there is no such project, from providers that can tell.
        """
        ...

    def scale(self, group: ContainerGroup, replicas: int) -> None:
        """Have the group run so many replicas while it is running."""
        ...

    def start(self, group: ContainerGroup) -> None:
        """Have the group run its replicas."""
        ...

    def stop(self, group: ContainerGroup) -> None:
        """Have the group run nothing."""
        ...

    def reallocate(self, group: ContainerGroup, node: str) -> None:
        """Put another machine in the place of the group's node ``node``."""
        ...
