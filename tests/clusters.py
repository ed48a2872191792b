"""Several real Valkey servers that belong together: a primary with replicas and Sentinels, a cluster."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from kelpie.embedded.processes import LOOPBACK, Server, free_ports
from kelpie.embedded.valkey import find_server
from tests.waiting import wait_until

PRIMARY_NAME = "kelpie-primary"
SLOTS = 16384


class Valkey(Server):
    """A server with the configuration that a test writes."""

    def __init__(self, directory: Path, port: int, password: str, lines: Sequence[str]) -> None:
        self.name = directory.name
        super().__init__(directory)
        self.port = port
        self.password = password
        self.lines = lines
        self.arguments: list[str] = []

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        config = self.directory / "valkey.conf"
        if not config.exists():  # Sentinels write into theirs
            config.write_text("\n".join((f"bind {LOOPBACK}", f"port {self.port}", *self.lines, "")))
        program, env = find_server()
        return [program, str(config), *self.arguments], env

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, password=self.password, socket_timeout=5, protocol=2)

    def is_ready(self) -> bool:
        with contextlib.suppress(redis.RedisError), self.client() as client:
            return bool(client.ping())
        return False


def durable(directory: Path, password: str) -> list[str]:
    """The lines of a server that keeps jobs."""
    directory.mkdir(parents=True, exist_ok=True)
    return [
        f"dir {directory}",
        f"requirepass {password}",
        f"masterauth {password}",
        "appendonly yes",
        'save ""',
        "repl-diskless-sync-delay 0",
    ]


class _Servers:
    """Servers that start and stop together."""

    def __init__(self) -> None:
        self.password = secrets.token_hex(16)
        self.servers: list[Valkey] = []

    def start(self) -> None:
        for server in self.servers:
            server.start()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        for server in self.servers:
            server.stop(grace_s=2)


class Cluster(_Servers):
    """A cluster of three primaries: `.url`."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        for number, port in enumerate(free_ports(3)):
            home = directory / f"node-{number}"
            lines = [
                *durable(home, self.password),
                "cluster-enabled yes",
                "cluster-node-timeout 2000",
                # The default, port + 10,000, may be taken or out of range.
                f"cluster-port {free_ports(1)[0]}",
            ]
            self.servers.append(Valkey(home, port, self.password, lines))

    @property
    def url(self) -> str:
        places = ",".join(f"{LOOPBACK}:{server.port}" for server in self.servers)
        return f"redis+cluster://:{self.password}@{places}"

    def start(self) -> None:
        super().start()
        first, *others = (server.client() for server in self.servers)
        share = -(-SLOTS // len(self.servers))
        for number, client in enumerate((first, *others)):
            last = min((number + 1) * share, SLOTS) - 1
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", number * share, last)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server in self.servers[1:]:
            bus = next(line.split()[1] for line in server.lines if line.startswith("cluster-port"))
            first.execute_command("CLUSTER", "MEET", LOOPBACK, server.port, bus)
        for client in (first, *others):
            wait_until(lambda client=client: _is_whole(client), "the cluster is whole")
            client.close()


def _is_whole(client: redis.Redis) -> bool:
    info = client.execute_command("CLUSTER", "INFO")
    state = (
        info
        if isinstance(info, dict)
        else dict(line.split(":", 1) for line in info.decode().split("\r\n") if ":" in line)
    )
    return state["cluster_state"] == "ok" and int(state["cluster_known_nodes"]) == 3


class Replicated(_Servers):
    """A primary and a replica, watched by three Sentinels: `.url`."""

    def __init__(self, directory: Path, *, sentinels: int = 3) -> None:
        super().__init__()
        ports = free_ports(2 + sentinels)
        homes = [directory / "primary", directory / "replica"]
        self.primary = Valkey(homes[0], ports[0], self.password, durable(homes[0], self.password))
        self.replica = Valkey(
            homes[1],
            ports[1],
            self.password,
            [*durable(homes[1], self.password), f"replicaof {LOOPBACK} {ports[0]}"],
        )
        self.sentinels = [self._sentinel(directory / f"sentinel-{port}", port) for port in ports[2:]]
        self.servers = [self.primary, self.replica, *self.sentinels]

    def _sentinel(self, home: Path, port: int) -> Valkey:
        home.mkdir(parents=True)
        lines = [
            f"dir {home}",
            f"requirepass {self.password}",
            f"sentinel sentinel-pass {self.password}",
            f"sentinel monitor {PRIMARY_NAME} {LOOPBACK} {self.primary.port} 2",
            f"sentinel auth-pass {PRIMARY_NAME} {self.password}",
            f"sentinel down-after-milliseconds {PRIMARY_NAME} 1000",
            f"sentinel failover-timeout {PRIMARY_NAME} 5000",
        ]
        server = Valkey(home, port, self.password, lines)
        server.arguments = ["--sentinel"]
        return server

    @property
    def url(self) -> str:
        places = ",".join(f"{LOOPBACK}:{server.port}" for server in self.sentinels)
        return (
            f"redis+sentinel://:{self.password}@{places}/{PRIMARY_NAME}/0?sentinel_password={self.password}"
        )

    @property
    def primary_url(self) -> str:
        """The primary alone."""
        return f"redis://:{self.password}@{LOOPBACK}:{self.primary.port}/0"

    def start(self) -> None:
        super().start()
        with self.primary.client() as client:
            wait_until(lambda: _is_followed(client), "the replica follows")
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                wait_until(lambda client=client: _knows_all(client, len(self.sentinels)), "a quorum")


def _knows_all(client: redis.Redis, sentinels: int) -> bool:
    known = client.sentinel_masters().get(PRIMARY_NAME)
    return bool(known and known["num-other-sentinels"] == sentinels - 1 and known["num-slaves"] == 1)


def _is_followed(client: redis.Redis) -> bool:
    """Whether the replica confirms writes, which is some time after it is called online."""
    with client.pipeline(transaction=False) as writing:
        writing.delete("nothing").set("probe", "1").delete("probe").wait(1, 500)
        return bool(writing.execute()[-1] == 1)
