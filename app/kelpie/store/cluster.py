"""A Redis Cluster behind the interface of one server, as far as the store uses it.

Every script and every command of the store is about keys of one slot; what reads several queues at once uses
:func:`kelpie.store.connection.pipeline`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ConnectionError,  # noqa: A004 - redis has its own
    MovedError,
    SlotNotCoveredError,
)

MAX_ATTEMPTS = 5


class _Cluster(RedisCluster):
    """redis-py's cluster client, which must not ask again what a slow server may still be doing."""

    ERRORS_ALLOW_RETRY = (  # type: ignore[assignment]  # without TimeoutError
        ConnectionError,
        ClusterDownError,
        SlotNotCoveredError,
    )


class ClusterClient:
    """The client of a cluster; it looks for the nodes when it is first used.

    redis-py's own does so when it is made, so that no process could be made while the cluster is away.
    """

    def __init__(self, hosts: Sequence[tuple[str, int]], **settings: Any) -> None:
        self._hosts = hosts
        self._settings = settings
        self._lock = threading.Lock()
        self._cluster: Any = None  # much of it has no types

    def __getattr__(self, name: str) -> Any:
        return getattr(self._open(), name)

    def _open(self) -> Any:
        with self._lock:
            if self._cluster is None:
                (host, port), *others = self._hosts
                self._cluster = _Cluster(
                    # Only what is told by URL gets pools of the class that we ask for.
                    url=f"redis://{f'[{host}]' if ':' in host else host}:{port}",
                    startup_nodes=[_node(*other) for other in others],
                    connection_pool_class=redis.BlockingConnectionPool,
                    require_full_coverage=False,  # queues on the other nodes go on
                    **self._settings,
                )
            return self._cluster

    def close(self) -> None:
        """Closes every connection to every node."""
        with self._lock:
            cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.close()

    def primaries(self) -> list[redis.Redis]:
        """A client of each node that holds slots."""
        cluster = self._open()
        return [cluster.get_redis_connection(node) for node in cluster.get_primaries()]

    def run_on_node_of(self, key: str, *commands: tuple[Any, ...]) -> list[Any]:
        """The answers of commands sent over one connection to the node that holds ``key``; errors included.

        Follows the redirections that the first command meets, and asks a new node once one is gone: all
        scripts may run twice.
        """
        cluster = self._open()
        node: Any = cluster.get_node_from_key(key)
        asking = False
        for attempt in range(MAX_ATTEMPTS):
            if node is None:
                raise SlotNotCoveredError("no node holds this slot")
            sending = cluster.get_redis_connection(node).pipeline(transaction=False)
            for command in ([("ASKING",)] if asking else []) + list(commands):
                sending.execute_command(*command)
            try:
                answers = sending.execute(raise_on_error=False)
            except ConnectionError:
                cluster.nodes_manager.initialize(last_failed_node_name=node.name)
                if attempt == MAX_ATTEMPTS - 1:
                    raise
                node, asking = cluster.get_node_from_key(key), False
                continue
            answers = answers[1:] if asking else answers
            if isinstance(answers[0], MovedError):  # which is an AskError too
                cluster.nodes_manager.move_slot(answers[0])
                node, asking = cluster.get_node_from_key(key), False
            elif isinstance(answers[0], AskError):
                node, asking = cluster.get_node(host=answers[0].host, port=answers[0].port), True
            else:
                return list(answers)
        raise ClusterDownError("the cluster sends us in circles")


def _node(host: str, port: int) -> ClusterNode:
    return ClusterNode(host, port)  # type: ignore[no-untyped-call]  # redis-py leaves it so
