"""Whether jobs are safe on a server: what is refused at start, and what is warned of."""

from __future__ import annotations

from typing import Any

import redis
from redis.exceptions import ResponseError

from kelpie.errors import StartupError
from kelpie.store.connection import servers, translated

MIN_REDIS = (7, 0)
MIN_VALKEY = (7, 2)

LOSSES = {
    "everysec": "a power cut can lose about two seconds of acknowledged jobs and reports",
    "no": "a power cut can lose what was acknowledged since the kernel last wrote to disk, often 30 seconds",
}
"""What can be lost under each weak appendfsync."""


def check_server(client: redis.Redis, *, allow_volatile: bool, wait_replicas: int = 0) -> tuple[str, ...]:
    """Refuses a server on which jobs would not be safe; returns what is to be warned of, in sentences.

    Raises StartupError or UnavailableError. On a cluster every node that takes writes is looked at.
    """
    warnings: dict[str, None] = {}
    with translated():
        for server in servers(client):
            for warning in _check_one(server, allow_volatile=allow_volatile, wait_replicas=wait_replicas):
                warnings[warning] = None
    return tuple(warnings)


def _check_one(server: redis.Redis, *, allow_volatile: bool, wait_replicas: int) -> list[str]:
    info: dict[str, Any] = server.info("server", "memory", "persistence", "replication")
    valkey = info.get("valkey_version")
    name, version, needed = (
        ("Valkey", valkey, MIN_VALKEY) if valkey else ("Redis", info.get("redis_version", "0"), MIN_REDIS)
    )
    if _version(str(version)) < needed:
        raise StartupError(
            f"{name} {version} is too old: Kelpie needs {name} {'.'.join(map(str, needed))} or later."
        )
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise StartupError(
            f"Redis has the maxmemory-policy {policy!r}, which would evict queues when memory is short; "
            "set it to noeviction."
        )
    warnings = []
    if not info.get("aof_enabled"):
        if not allow_volatile:
            raise StartupError(
                "Redis keeps no append-only file, so acknowledged jobs could be lost; set appendonly to yes "
                "(and appendfsync to always), or allow a volatile store by name (KELPIE_ALLOW_VOLATILE=true)."
            )
        warnings.append("Redis keeps no append-only file: every job is lost with its process.")
    else:
        fsync = _appendfsync(server)
        if fsync in LOSSES:
            warnings.append(f"Redis has appendfsync {fsync}: {LOSSES[fsync]}. Set it to always.")
    replicas = int(info.get("connected_slaves", 0))
    if replicas < wait_replicas:
        warnings.append(
            f"KELPIE_WAIT_REPLICAS is {wait_replicas}, but Redis has {replicas} replicas connected: "
            "nothing can be acknowledged until there are enough."
        )
    return warnings


def _appendfsync(server: redis.Redis) -> str | None:
    """How Redis syncs its append-only file; None where we may not ask (ACLs, managed services)."""
    try:
        found: dict[Any, Any] = server.config_get("appendfsync")
    except ResponseError:
        return None
    policy = found.get("appendfsync")
    return policy if isinstance(policy, str) else None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
