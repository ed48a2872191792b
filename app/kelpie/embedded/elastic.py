"""The host of a local provider's group: asks the API how many nodes are wanted, and says which there are.

A thread asks, so that an API that does not answer never holds up the supervision of the processes; these
are started and ended by :class:`kelpie.embedded.stack.Stack`.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

from kelpie.client import Client
from kelpie.embedded.options import Autoscale
from kelpie.errors import ConflictError, KelpieError, NotFoundError

ORGANIZATION = PROJECT = "default"
"""What the key of the platform's user is bound to."""

_ASK_EVERY_S = 1.0
_API_TIMEOUT_S = 5.0


class Elastic:
    """One container group of the local provider, seen from its host."""

    def __init__(self, url: str, admin_key: str, group: str) -> None:
        self._group = group
        self._client = Client(url, admin_key, timeout_s=_API_TIMEOUT_S)
        self._lock = threading.Lock()
        self._nodes: frozenset[str] = frozenset()
        self._wanted: int | None = None
        self._replace: frozenset[str] = frozenset()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="elastic", daemon=True)

    def register(self, user_key: str, rule: Autoscale) -> None:
        """Make the group, and the rule of the user whose jobs its nodes run, or bring both up to date."""
        self._client.put_container_group(
            self._group, name="kelpie up", organization=ORGANIZATION, project=PROJECT
        )
        with Client(self._client.url, user_key) as user:
            try:
                self._set(user, rule)
            except ConflictError:  # of a user whose key was lost with an older file
                with contextlib.suppress(NotFoundError):
                    self._client.delete_scaling_rule(self._group)
                self._set(user, rule)

    def _set(self, user: Client, rule: Autoscale) -> None:
        user.set_scaling_rule(
            self._group,
            min_replicas=rule.min_nodes,
            max_replicas=rule.max_nodes,
            idle_threshold_s=rule.idle_threshold_s,
        )

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def close(self) -> None:
        """Ask no more. What was wanted last stays."""
        self._closed.set()

    @property
    def wanted(self) -> int | None:
        """How many nodes are wanted; None: not known yet."""
        with self._lock:
            return self._wanted

    def exchange(self, nodes: Iterable[str]) -> tuple[int | None, frozenset[str]]:
        """Say which nodes there are; how many are wanted (None: not known yet), and which to replace."""
        with self._lock:
            self._nodes = frozenset(nodes)
            return self._wanted, self._replace

    def _follow(self) -> None:
        trouble = ""
        while not self._closed.wait(_ASK_EVERY_S):
            with self._lock:
                nodes = self._nodes
            try:
                wanted, replace = self._client.report_nodes(self._group, nodes)
            except KelpieError as error:  # what was wanted last stays
                if trouble != type(error).__name__:
                    sys.stderr.write(f"guard: how many nodes are wanted cannot be asked: {error}\n")
                trouble = type(error).__name__
            else:
                trouble = ""
                with self._lock:
                    self._wanted, self._replace = wanted, replace


def is_idle(state_file: Path) -> bool:
    """Whether a node has no job, not even one whose data is still on its way, as its state file tells.

    A node that has written none has just begun to start.
    """
    try:
        jobs = json.loads(state_file.read_bytes())["jobs"]
        return all(job["end"] is not None for job in jobs)
    except FileNotFoundError:
        return True
    except (OSError, ValueError, KeyError, TypeError):
        return False
