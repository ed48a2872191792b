"""What a request has at hand: the parts of its process, and whom it speaks for."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from flask import Flask, current_app, g
from prometheus_client import CollectorRegistry

from kelpie.config import Settings
from kelpie.errors import ForbiddenError
from kelpie.http.limits import Limits
from kelpie.http.pulse import Pulse
from kelpie.identity import Identities
from kelpie.providers import Provider, UnknownPlaceError
from kelpie.scaling import ContainerGroup
from kelpie.store import ADMIN_ID, EventHub, Poller, Principal, Scope, Store

if TYPE_CHECKING:
    from kelpie.http.audit import Notes

EXTENSION = "kelpie"


@dataclass(frozen=True, slots=True)
class Services:
    """The parts that all requests of one process share."""

    settings: Settings
    store: Store
    poller: Poller
    hub: EventHub
    provider: Provider
    identities: Identities
    limits: Limits
    pulse: Pulse
    registry: CollectorRegistry
    notes: Notes
    ending: threading.Event = field(default_factory=threading.Event)

    def announce_end(self) -> None:
        """Say that this process is not ready, though it still serves."""
        self.ending.set()

    def close_polls(self) -> None:
        """Answer every open long poll with nothing and end every event stream, at once."""
        self.announce_end()
        self.hub.stop_following()
        self.poller.close()
        self.hub.close()

    def close(self) -> None:
        """Answer every open long poll and let go of Redis."""
        self.close_polls()
        self.pulse.close()
        self.store.close()


def services(app: Flask | None = None) -> Services:
    """The parts of ``app``, or of the application that handles the current request."""
    return cast("Services", (app or current_app).extensions[EXTENSION])


def principal() -> Principal:
    """Whom the current request speaks for; set by :func:`kelpie.http.auth.authenticate`."""
    return cast("Principal", g.principal)


def scope() -> str | None:
    """The user whose jobs the current request may see; None for the admin, who sees all."""
    caller = principal()
    return None if caller.is_admin else caller.user_id


def own_container_group(group_id: str) -> ContainerGroup | None:
    """The provider's container group of that id in the caller's organization and project, None without one.

    The admin's is anybody's, or where the settings say. Raises ProviderError.
    """
    caller = principal()
    try:
        return services().provider.lookup(
            group_id,
            organization=None if caller.is_admin else caller.org_name,
            project=None if caller.is_admin else caller.project_name,
        )
    except UnknownPlaceError:
        return None


def require(needed: Scope) -> None:
    """Raises ForbiddenError, which names the scope, unless the caller's credentials allow it."""
    caller = principal()
    if caller.may(needed):
        return
    if needed is Scope.ADMIN and caller.user_id != ADMIN_ID:
        raise ForbiddenError("Only the admin may do this; show the admin's key in X-Kelpie-Key.")
    if caller.machine_id is not None:
        raise ForbiddenError(
            f"A node's own identity may ask for work and report on it only; this needs the scope {needed}."
        )
    lacking = "submit or read" if needed is Scope.READ else needed.value
    raise ForbiddenError(
        f"This API key lacks the scope {lacking}; it has {' and '.join(sorted(caller.scopes or ()))}. "
        "Show a key that has it, or a full one."
    )


def require_admin() -> None:
    """Raises ForbiddenError unless the caller is the admin, with a key that may act as the admin."""
    require(Scope.ADMIN)


def require_own(machine_id: str, container_group_id: str) -> None:
    """Raises ForbiddenError when a node's own identity speaks for another machine or workload."""
    caller = principal()
    if caller.machine_id is None:
        return
    if machine_id != caller.machine_id:
        raise ForbiddenError(
            f"machine_id is {machine_id!r}, but the token in Authorization is one of another machine."
        )
    bound = services().settings.jwt_bind_workload
    if bound and container_group_id != caller.workload_id:
        raise ForbiddenError(
            f"container_group_id is {container_group_id!r}, but the token in Authorization is one of another "
            "workload."
        )
