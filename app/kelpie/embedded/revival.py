"""When a part that died is started again."""

from __future__ import annotations

import time

from kelpie.embedded.parts import Node
from kelpie.embedded.processes import Server

_BACKOFF_S = (1.0, 30.0)  # before the first restart, and the longest
_STEADY_S = 60.0  # a part that ran this long has recovered: its backoff starts anew


class Revival:
    """At once at first, more and more slowly when it keeps dying."""

    def __init__(self, node_restart_s: float) -> None:
        self._node_restart_s = node_restart_s
        self._due: dict[str, float] = {}
        self._pause_s: dict[str, float] = {}
        self._died: dict[str, float] = {}

    def schedule(self, part: Server) -> float:
        """Note that the part has died; in how many seconds it is due."""
        now = time.monotonic()
        first, longest = _BACKOFF_S
        steady = now - self._died.get(part.name, -_STEADY_S) > _STEADY_S
        pause_s = first if steady else min(longest, 2 * self._pause_s.get(part.name, first))
        self._pause_s[part.name], self._died[part.name] = pause_s, now
        if isinstance(part, Node):
            pause_s = max(pause_s, self._node_restart_s)
        self._due[part.name] = now + pause_s
        return pause_s

    def is_due(self, part: Server) -> bool:
        """Whether its time has come."""
        return time.monotonic() >= self._due.get(part.name, 0.0)
