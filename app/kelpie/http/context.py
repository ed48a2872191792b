"""What a request has at hand: the parts of its process, and whom it speaks for."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import cast

from flask import Flask, current_app, g
from prometheus_client import CollectorRegistry

from kelpie.config import Settings
from kelpie.errors import ForbiddenError
from kelpie.http.limits import Limits
from kelpie.http.pulse import Pulse
from kelpie.store import Poller, Principal, Store

EXTENSION = "kelpie"


@dataclass(frozen=True, slots=True)
class Services:
    """The parts that all requests of one process share."""

    settings: Settings
    store: Store
    poller: Poller
    limits: Limits
    pulse: Pulse
    registry: CollectorRegistry
    ending: threading.Event = field(default_factory=threading.Event)

    def announce_end(self) -> None:
        """Say that this process is not ready, though it still serves."""
        self.ending.set()

    def close_polls(self) -> None:
        """Answer every open long poll with nothing, at once."""
        self.announce_end()
        self.poller.close()

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


def require_admin() -> None:
    """Raises ForbiddenError unless the caller is the admin."""
    if not principal().is_admin:
        raise ForbiddenError("Only the admin may do this; show the admin's key in X-Kelpie-Key.")
