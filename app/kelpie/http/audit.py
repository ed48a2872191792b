"""Keeps who did what: every change that a user asked for and got. What nodes report are events, not deeds."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace

import structlog
from flask import Flask, Response, g, request

from kelpie.errors import UnavailableError
from kelpie.http.context import principal, services
from kelpie.store import Deed, Principal, Store

ACTIONS: Mapping[str, str] = {
    "jobs.submit": "submit a job",
    "jobs.submit_batch": "submit jobs",
    "jobs.delete": "cancel or delete a job",
    "jobs.hold": "hold a job",
    "jobs.resume": "resume a job",
    "jobs.requeue": "requeue a job",
    "jobs.unban": "lift a job's bans",
    "jobs.prioritize": "change the priority of a job",
    "jobs.clear_group": "clear a queue",
    "jobs.purge_all": "delete all jobs",
    "scaling_rules.create": "make a scaling rule",
    "scaling_rules.update": "change a scaling rule",
    "scaling_rules.delete": "delete a scaling rule",
    "scaling_rules.delete_all": "delete all scaling rules",
    "container_groups.put": "register a container group",
    "container_groups.delete": "remove a container group",
    "drains.drain": "drain a node",
    "drains.resume": "let a drained node have jobs again",
    "users.create": "make a user",
    "users.create_key": "make an API key of a user",
    "users.revoke_key_of": "revoke an API key of a user",
    "users.delete": "delete a user",
    "users.delete_all": "delete all users",
    "keys.create": "make an API key",
    "keys.revoke": "revoke an API key",
    "webhooks.replay": "replay a webhook delivery",
    "webhooks.rotate": "rotate the webhook secret",
}
"""The operations of the API that change something for a user, in words; a test holds that none is missing."""

MANY = frozenset({"jobs.submit", "jobs.submit_batch"})
"""They come by the thousand a second, and each job tells its owner and time itself: counted by the second."""

SPELLINGS = 200  # (user, key, address) that submit within one second and are told apart

log = structlog.get_logger(__name__)


class Notes:
    """Deeds that come too often to be written one by one: each process adds up its own, second by second."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._counts: dict[Deed, int] = {}

    def add(self, deed: Deed) -> None:
        """Count a deed."""
        one = replace(deed, count=0)
        with self._lock:
            if one not in self._counts and len(self._counts) >= SPELLINGS:
                one = replace(one, address=None, key_id=None)
            self._counts[one] = self._counts.get(one, 0) + deed.count

    def flush(self) -> None:
        """Write what was counted. Raises UnavailableError; the next call then writes it too."""
        with self._lock:
            counted, self._counts = self._counts, {}
        if not counted:
            return
        try:
            self._store.audit.note([replace(deed, count=count) for deed, count in counted.items()])
        except UnavailableError:
            with self._lock:
                for deed, count in counted.items():
                    self._counts[deed] = self._counts.get(deed, 0) + count
            raise


def register(app: Flask) -> None:
    """Make ``app`` note what it changes for users."""
    app.after_request(_note)


def note(action: str, target: str, *, count: int = 1, via: str = "pages") -> None:
    """Write down what the current caller has just done. What is done is done, whether that works or not."""
    deed = _deed(principal(), action, target, via=via, count=count)
    try:
        services().store.audit.note([deed])
    except UnavailableError:
        log.exception("not in the audit log", action=action, target=target, user=deed.user_id)


def note_submit(count: int, *, via: str = "pages") -> None:
    """Count jobs that the current caller has just submitted."""
    services().notes.add(_deed(principal(), "submit jobs", "", via=via, count=count))


def _note(response: Response) -> Response:
    action = ACTIONS.get(request.endpoint or "")
    if action is None or response.status_code >= 400 or "principal" not in g:
        return response
    if request.endpoint in MANY:
        note_submit(g.get("submitted", 1), via="api")
    else:
        named = " ".join(str(value) for value in (request.view_args or {}).values())
        target = g.get("target", named)
        if request.endpoint == "jobs.delete":
            action = "cancel a job" if response.status_code == 202 else "delete a job"
        note(action, target, via="api")
    return response


def _deed(caller: Principal, action: str, target: str, *, via: str, count: int) -> Deed:
    return Deed(
        user_id=caller.user_id,
        username=caller.username,
        action=action,
        target=target,
        via=via,
        key_id=caller.key_id,
        address=request.remote_addr,
        count=count,
    )
