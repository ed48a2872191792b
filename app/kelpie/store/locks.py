"""A lock that one process holds as long as it says so: work that only one of several processes does."""

from __future__ import annotations

import uuid

from kelpie.store.scripts import Scripts


class Lock:
    """One holder's side of a lock. Whoever stops renewing it loses it after ``ttl_s`` seconds."""

    def __init__(self, scripts: Scripts, key: str, *, ttl_s: float) -> None:
        self._scripts = scripts
        self._key = key
        self._ttl_ms = round(ttl_s * 1000)
        self._holder = uuid.uuid4().hex

    def take(self) -> bool:
        """Take it, or keep it for another ``ttl_s`` seconds; False while another one has it."""
        return bool(self._scripts.run("take_lock", (self._key,), holder=self._holder, ttl_ms=self._ttl_ms))

    def free(self) -> None:
        """Let another one have it at once. Harmless when it is not ours."""
        self._scripts.run("free_lock", (self._key,), holder=self._holder)
