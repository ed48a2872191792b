"""The connection to Redis or Valkey: how clients are set up, what is checked, and what its errors mean."""

from __future__ import annotations

import random
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import redis
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.client import Pipeline
from redis.connection import SSLConnection
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    ConnectionError,  # noqa: A004 - redis has its own
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    ResponseError,
    TimeoutError,  # noqa: A004 - redis has its own
    TryAgainError,
)
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from kelpie.errors import StartupError, UnavailableError
from kelpie.store.cluster import ClusterClient
from kelpie.store.urls import Kind, RedisUrl, read_url

CONNECT_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 5.0  # far above the longest script
RETRIES = 2  # after a lost connection; safe, because every script may run twice
MAX_CONNECTIONS = 128
CONNECTION_WAIT_S = 10.0  # for one of them to become free
PING_AFTER_IDLE_S = 30

SENTINEL_TIMEOUT_S = 1.0

_SOCKETS: dict[str, Any] = {
    "protocol": 2,
    "socket_connect_timeout": CONNECT_TIMEOUT_S,
    "socket_keepalive": True,
    # A server whose machine has vanished is missed within half a minute, also by who only listens.
    "socket_keepalive_options": {socket.TCP_KEEPIDLE: 15, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3},
}

_OF_POOLS = frozenset({"connection_pool", "himport_registry", "maint_notifications_config", "cache"})
"""What redis-py puts among the settings of the connections of a pool, for itself."""

PASSING_WORDS = frozenset(
    {"BUSY", "LOADING", "READONLY", "OOM", "MISCONF", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN", "TRYAGAIN"}
)
"""First words of error replies that tell of the server's state, not of the command."""

_IN_PIPELINE = re.compile(r"\ACommand # \d+ \(.*?\) of pipeline caused error: ", re.DOTALL)
"""What redis-py puts before the error of a command of a pipeline; it shows the command's arguments."""


def make_client(url: str) -> redis.Redis:
    """A client for scripts and short commands. Raises StartupError for a malformed URL; does not connect."""
    told = read_url(url)
    pooled: dict[str, Any] = {
        "max_connections": MAX_CONNECTIONS,
        "timeout": CONNECTION_WAIT_S,
        "socket_timeout": ANSWER_TIMEOUT_S,
        "health_check_interval": PING_AFTER_IDLE_S,
    }
    # A frozen server is not asked again: callers would wait for the sum of the timeouts.
    retry = Retry(
        ExponentialWithJitterBackoff(base=0.05, cap=0.5), RETRIES, supported_errors=(ConnectionError,)
    )
    if told.kind is Kind.CLUSTER:
        options = dict(told.options)
        if options.pop("ssl", False):
            options["connection_class"] = SSLConnection
        del pooled["health_check_interval"]  # which redis-py does not take here
        client = ClusterClient(told.hosts, retry=retry, **_SOCKETS, **options, **pooled)
        return cast("redis.Redis", client)
    if told.kind is Kind.SENTINEL:
        return redis.Redis(connection_pool=_sentinel_pool(_BlockingSentinelPool, told, retry=retry, **pooled))
    return _single(told, redis.BlockingConnectionPool, retry=retry, **pooled)


def make_plain_client(url: str, **settings: Any) -> redis.Redis:
    """A client of one server, or of the primary that Sentinels know, with redis-py's own habits: for RQ.

    Raises StartupError for a malformed URL, and for a cluster.
    """
    told = read_url(url)
    if told.kind is Kind.CLUSTER:
        raise StartupError("RQ does not work on a cluster; give its own server in KELPIE_RQ_URL.")
    if told.kind is Kind.SENTINEL:
        return redis.Redis(connection_pool=_sentinel_pool(SentinelConnectionPool, told, **settings))
    return _single(told, redis.ConnectionPool, **settings)


def make_subscriber(client: redis.Redis) -> redis.Redis:
    """A client of its own for one subscription to the same server: waits without limit, repeats nothing.

    On a cluster, to any node of it: they all tell what is published on one. Raises what redis-py raises when
    no node can be reached.
    """
    if isinstance(client, ClusterClient):
        client = random.choice(client.primaries())  # noqa: S311 - to spread the load
    pool = client.connection_pool
    ours: dict[str, Any] = {
        "max_connections": 2,
        "socket_timeout": None,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 10,
    }
    settings = {name: value for name, value in pool.connection_kwargs.items() if name not in _OF_POOLS} | ours
    if isinstance(pool, SentinelConnectionPool):
        again: Any = SentinelConnectionPool  # which has no types
        return redis.Redis(
            connection_pool=again(
                pool.service_name, pool.sentinel_manager, connection_class=pool.connection_class, **settings
            )
        )
    return redis.Redis(
        connection_pool=redis.ConnectionPool(connection_class=pool.connection_class, **settings)
    )


def is_cluster(client: redis.Redis) -> bool:
    """Whether the client's keys are spread over several servers."""
    return isinstance(client, ClusterClient)


def servers(client: redis.Redis) -> list[redis.Redis]:
    """A client of each server that takes writes."""
    return client.primaries() if isinstance(client, ClusterClient) else [client]


def together(client: redis.Redis) -> Pipeline:
    """A pipeline for reading the keys of several queues at one moment, as far as the server can do that.

    One transaction, except on a cluster, where each node answers for itself.
    """
    return client.pipeline(transaction=not is_cluster(client))


def close(client: redis.Redis) -> None:
    """Closes every connection of a client that :func:`make_client` made."""
    if isinstance(client, ClusterClient):
        client.close()
        return
    pool = client.connection_pool
    pool.disconnect()
    if isinstance(pool, SentinelConnectionPool):
        pool.sentinel_manager.close()


class _BlockingSentinelPool(SentinelConnectionPool, redis.BlockingConnectionPool):
    """Connections to the primary that Sentinels name; who wants one more than there may be waits."""


def _sentinel_pool(
    pool_class: type[SentinelConnectionPool], told: RedisUrl, **settings: Any
) -> SentinelConnectionPool:
    asking: dict[str, Any] = {
        "protocol": 2,
        "socket_timeout": SENTINEL_TIMEOUT_S,
        "socket_connect_timeout": SENTINEL_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),  # the next Sentinel is asked instead
    }
    make_manager: Any = Sentinel  # which has no types
    manager = make_manager(told.hosts, sentinel_kwargs=asking | told.sentinel_options)
    return pool_class(told.service, manager, **_SOCKETS, **told.options, **settings)


def _single(told: RedisUrl, pool_class: type[redis.ConnectionPool], **settings: Any) -> redis.Redis:
    sockets = dict(_SOCKETS)
    if told.text.startswith("unix:"):  # redis-py refuses options of TCP there
        sockets = {name: value for name, value in sockets.items() if "keepalive" not in name}
    try:
        pool = pool_class.from_url(told.text, **sockets, **settings)
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
    except (ConnectionError, TimeoutError, ReadOnlyError, RedisClusterException) as error:
        raise UnavailableError(f"Redis cannot be reached: {_brief(error)}") from error
    except NoPermissionError as error:
        raise UnavailableError(
            f"Redis does not allow our user this; check its ACL: {_brief(error)}"
        ) from error
    except ResponseError as error:
        told = _IN_PIPELINE.sub("", str(error))
        if told.partition(" ")[0] in PASSING_WORDS or isinstance(error, ClusterDownError | TryAgainError):
            raise UnavailableError(f"Redis cannot serve now: {told[:200]}") from error
        raise


def _brief(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
