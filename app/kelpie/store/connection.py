"""The connection to Redis or Valkey: how clients are set up, what is checked, and what its errors mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,  # noqa: A004 - redis has its own
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004 - redis has its own
)
from redis.retry import Retry

from kelpie.errors import StartupError, UnavailableError

CONNECT_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 5.0  # far above the longest script
RETRIES = 2  # after a lost connection; safe, because every script may run twice
MAX_CONNECTIONS = 128
CONNECTION_WAIT_S = 10.0  # for one of them to become free
PING_AFTER_IDLE_S = 30

MIN_REDIS = (7, 0)
MIN_VALKEY = (7, 2)

PASSING_WORDS = frozenset(
    {"BUSY", "LOADING", "READONLY", "OOM", "MISCONF", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN", "TRYAGAIN"}
)
"""First words of error replies that tell of the server's state, not of the command."""


def make_client(url: str) -> redis.Redis:
    """A client for scripts and short commands. Raises StartupError for a malformed URL; does not connect."""
    return _client(
        url,
        redis.BlockingConnectionPool,
        max_connections=MAX_CONNECTIONS,
        timeout=CONNECTION_WAIT_S,
        socket_timeout=ANSWER_TIMEOUT_S,
        health_check_interval=PING_AFTER_IDLE_S,
        # A frozen server is not asked again: callers would wait for the sum of the timeouts.
        retry=Retry(
            ExponentialWithJitterBackoff(base=0.05, cap=0.5), RETRIES, supported_errors=(ConnectionError,)
        ),
    )


def make_subscriber(client: redis.Redis) -> redis.Redis:
    """A client of its own for one subscription to the same server: waits without limit, repeats nothing."""
    pool = client.connection_pool
    settings = pool.connection_kwargs | {
        "socket_timeout": None,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 10,
    }
    return redis.Redis(
        connection_pool=redis.ConnectionPool(
            connection_class=pool.connection_class, max_connections=2, **settings
        )
    )


def _client(url: str, pool_class: type[redis.ConnectionPool], **settings: Any) -> redis.Redis:
    try:
        pool = pool_class.from_url(
            url, protocol=2, socket_connect_timeout=CONNECT_TIMEOUT_S, socket_keepalive=True, **settings
        )
    except ValueError:  # whose text may hold a piece of the password
        raise StartupError(
            "The Redis URL is malformed; write redis://[user:password@]host:port/db, with special characters "
            "of the password as %XX"
        ) from None
    return redis.Redis(connection_pool=pool)


@contextmanager
def translated() -> Iterator[None]:
    """Raises UnavailableError for what the state of the server or of the network causes.

    Other errors of redis-py pass: they are ours.
    """
    try:
        yield
    except OutOfMemoryError as error:
        raise UnavailableError(
            "Redis has reached its maxmemory, so it takes no new jobs; delete old ones or raise the limit."
        ) from error
    except AuthenticationError as error:
        raise UnavailableError(
            "Redis refuses our credentials; check the user and password in its URL."
        ) from error
    except (ConnectionError, TimeoutError, ReadOnlyError) as error:
        raise UnavailableError(f"Redis cannot be reached: {_brief(error)}") from error
    except ResponseError as error:
        if str(error).partition(" ")[0] in PASSING_WORDS:
            raise UnavailableError(f"Redis cannot serve now: {_brief(error)}") from error
        raise


def _brief(error: RedisError) -> str:
    return str(error).partition("\n")[0][:200]


def check_server(client: redis.Redis, *, allow_volatile: bool) -> None:
    """Refuses a server on which jobs would not be safe. Raises StartupError or UnavailableError."""
    with translated():
        info: dict[str, Any] = client.info("server", "memory", "persistence")
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
    if not allow_volatile and not info.get("aof_enabled"):
        raise StartupError(
            "Redis keeps no append-only file, so acknowledged jobs could be lost; set appendonly to yes "
            "(and appendfsync to always), or allow a volatile store by name (KELPIE_ALLOW_VOLATILE=true)."
        )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
