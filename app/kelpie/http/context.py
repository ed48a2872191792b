"""What a request has at hand: the parts of its process, and whom it speaks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from flask import Flask, current_app, g

from kelpie.config import Settings
from kelpie.errors import ForbiddenError
from kelpie.store import EventHub, Poller, Principal, Store

EXTENSION = "kelpie"


@dataclass(frozen=True, slots=True)
class Services:
    """The parts that all requests of one process share."""

    settings: Settings
    store: Store
    poller: Poller
    hub: EventHub

    def close_polls(self) -> None:
        """Answer every open long poll with nothing and end every event stream, at once."""
        self.hub.stop_following()
        self.poller.close()
        self.hub.close()

    def close(self) -> None:
        """Answer every open long poll and let go of Redis."""
        self.close_polls()
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


def require_admin() -> None:
    """Raises ForbiddenError unless the caller is the admin."""
    if not principal().is_admin:
        raise ForbiddenError("Only the admin may do this; show the admin's key in X-Kelpie-Key.")
