"""The parts of a platform on one machine: the order they start and stop in, and what brings one back."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from kelpie.embedded import credentials as secrets_file
from kelpie.embedded.elastic import Elastic, is_idle
from kelpie.embedded.options import DEFAULT_BUCKET, Options, Ready
from kelpie.embedded.parts import Api, Node, PlatformProcess
from kelpie.embedded.process_tree import kill_orphans, reap
from kelpie.embedded.processes import Server, free_ports, is_free
from kelpie.embedded.revival import Revival
from kelpie.embedded.s3 import REGION, S3Server
from kelpie.embedded.valkey import ValkeyServer
from kelpie.errors import StartupError

REPLACE_NODE_CODE = 86
"""A worker's way to say that its node must be replaced by another (kelpie.cli.exit_codes)."""

_QUICK_GRACE_S = 2.0
_PART_GRACE_S = 8.0
_LOG_BYTES = 10 * 1024 * 1024
_LOG_CHECK_S = 10.0
_LOGS_OF_LEFT_NODES = 20
_SCALING = {"KELPIE_AUTOSCALE_INTERVAL_S": "1", "KELPIE_AUTOSCALE_COOLDOWN_S": "1"}
"""Processes of this machine start in a second and cost nothing: no need to be as patient as with a cloud."""


_ONE_FAILURE = {"MAX_JOB_FAILURES": "1"}
"""A job that failed needs another node: the one that it failed on is replaced, or the job might wait for ever
while that node is all that the length of the queue asks for."""


class Stack:
    """Every process of the platform, supervised by the process that makes this. Not thread-safe."""

    def __init__(self, options: Options, tell: Callable[..., None]) -> None:
        self.options = options
        self.tell = tell
        self.data = Path(options.data)
        self.logs = self.data / "logs"
        self.parts: list[Server] = []  # in the order of their start
        self._lock: IO[bytes] | None = None
        self._revival = Revival(options.node_restart_s)
        self._logs_checked = time.monotonic()
        self._node_count = options.nodes if options.autoscale is None else 0
        self._node_environment: dict[str, str] = {}
        self._elastic: Elastic | None = None
        self._leaving: set[str] = set()  # nodes that end when they have no job
        self._left: deque[str] = deque()

    @property
    def nodes(self) -> list[Node]:
        """The nodes among the parts."""
        return [part for part in self.parts if isinstance(part, Node)]

    def start(self, check: Callable[[], None]) -> dict[str, Any]:
        """Start everything and wait until it serves; ``check`` may raise to give up. What to tell of it.

        StartupError names what is wrong: the folder in use, the port taken, a server that does not start.
        """
        self._take_folder()
        file = self.data / "credentials.json"
        keys = secrets_file.load_or_create(file)
        port = self.options.port or free_ports(1)[0]
        if not is_free(port):
            raise StartupError(f"port {port} is taken by another program; choose one with --port")
        valkey = ValkeyServer(
            self.data / "valkey", password=keys.redis_password, log=self.logs / "valkey.log"
        )
        s3 = S3Server(
            self.data / "s3",
            access_key=keys.s3_access_key,
            secret_key=keys.s3_secret_key,
            log=self.logs / "s3.log",
        )
        server_environment = {
            "KELPIE_REDIS_URL": valkey.url,
            "KELPIE_ADMIN_KEY": keys.admin_key,
            "KELPIE_SHUTDOWN_GRACE_S": "5",
            "KELPIE_WEBHOOK_ALLOW_PRIVATE": "true",  # receivers on this machine are what it is for
            **_SCALING,
        }
        api = Api(self.data, log=self.logs / "api.log", port=port, environment=server_environment)
        platform = PlatformProcess(self.data, log=self.logs / "platform.log", environment=server_environment)
        self.tell("starting", name="servers")
        self._launch(s3)  # the slowest: the others start meanwhile
        self._launch(valkey)
        valkey.wait_ready(check)
        self._launch(api)
        self._launch(platform)
        api.wait_ready(check)
        keys = secrets_file.ensure_user(file, keys, api.url)
        s3.wait_ready(check)
        s3.ensure_bucket(DEFAULT_BUCKET)
        check()
        self.tell("starting", name="nodes")
        self._node_environment = {
            **s3.environment,
            "KELPIE_API_URL": api.url,
            "KELPIE_API_KEY": keys.node_key,
            **({} if self.options.autoscale is None else _ONE_FAILURE),
            **self.options.node_environment,
        }
        if self.options.autoscale is not None:
            self._elastic = Elastic(api.url, keys.admin_key, self.options.queue)
            self._elastic.register(keys.user_key, self.options.autoscale)
            self._elastic.start()
        else:
            for number in range(1, self.options.nodes + 1):
                self._launch(self._node(number))
        return asdict(
            Ready(
                url=api.url,
                key=keys.user_key,
                admin_key=keys.admin_key,
                queue=self.options.queue,
                s3_endpoint=s3.endpoint,
                s3_access_key=s3.access_key,
                s3_secret_key=s3.secret_key,
                s3_region=REGION,
                bucket=DEFAULT_BUCKET,
                nodes={node.name: node.pid for node in self.nodes},
            )
        )

    def mend(self) -> None:
        """Bring back what has died, in time; clean up after it; keep the logs within bounds. Quick."""
        for part in list(self.parts):
            if not part.running:
                self._mend(part)
        self._resize()
        reap(self._known())
        if time.monotonic() - self._logs_checked > _LOG_CHECK_S:
            self._logs_checked = time.monotonic()
            bound_logs(self.logs)

    def stop(self, *, quick: bool, hurry: Callable[[], bool]) -> None:
        """End everything: nodes (they hand their jobs back), platform, API, S3, Valkey.

        ``quick``: with little patience. ``hurry`` is asked now and then whether to give up order.
        """
        if self._elastic is not None:
            self._elastic.close()
        nodes = self.nodes
        servers = [part for part in self.parts if not isinstance(part, Node)]
        order = {"platform": 0, "api": 1, "s3": 2, "valkey": 3}
        stages: list[list[Server]] = [list(nodes)]
        stages += [[part] for part in sorted(servers, key=lambda part: order[part.name])]
        for stage in stages:
            limits = [min(part.stop_grace_s, _PART_GRACE_S) for part in stage if not isinstance(part, Node)]
            grace_s = max(
                [*limits, *(node.stop_grace_s for node in stage if isinstance(node, Node))], default=0
            )
            if not _stop_together(stage, min(grace_s, _QUICK_GRACE_S) if quick else grace_s, hurry):
                return

    def close(self) -> None:
        """Give the folder free. Everything has ended."""
        for part in self.parts:
            part.kill()
        if self._elastic is not None:
            self._elastic.close()
        if self._lock is not None:
            self._lock.close()

    def _take_folder(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.logs.mkdir(exist_ok=True)
        lock = (self.data / "lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise StartupError(
                f"{self.data} is in use by another `kelpie up`; stop it, or choose a folder with --data"
            ) from None
        self._lock = lock

    def _launch(self, part: Server) -> None:
        part.launch()
        self.parts.append(part)

    def _node(self, number: int) -> Node:
        name = f"node-{number}"
        return Node(
            self.data / "nodes" / name,
            name=name,
            log=self.logs / f"{name}.log",
            queue=self.options.queue,
            environment=self._node_environment,
        )

    def _known(self) -> set[int]:
        return {part.process.pid for part in self.parts if part.process is not None}

    def _mend(self, part: Server) -> None:
        if part.process is not None:  # it has just died
            code, pid = part.process.returncode, part.pid
            part.kill()
            if isinstance(part, Node):
                kill_orphans(part.marker, self._known())  # a machine's death takes all of its processes
                if part.name in self._leaving or self._surplus() > 0:
                    self._remove(part)
                    return
                if code == REPLACE_NODE_CODE:
                    self._replace(part)
                    return
            wait_s = self._revival.schedule(part)
            self.tell("exited", name=part.name, pid=pid, code=code, restart_in_s=wait_s)
        elif self._revival.is_due(part):
            part.launch()
            self.tell("started", name=part.name, pid=part.pid)

    def _surplus(self) -> int:
        """How many nodes there are beyond those that are wanted."""
        if self._elastic is None or self._elastic.wanted is None:
            return 0
        return len(self.nodes) - len(self._leaving) - self._elastic.wanted

    def _resize(self) -> None:
        """Start the nodes that are missing; have those end that are too many and have no job."""
        if self._elastic is None:
            return
        wanted, replace = self._elastic.exchange(node.name for node in self.nodes)
        if wanted is None:
            return
        for _ in range(wanted - len(self.nodes)):
            node = self._new_node()
            self.tell("joined", name=node.name, pid=node.pid, nodes=len(self.nodes))
        for node in self.nodes:
            if node.name in replace:
                self._retire(node)
        # The newest first. All of them may have jobs: then none ends until one of them has not.
        for node in reversed(self.nodes):
            if self._surplus() <= 0:
                return
            if node.process is None:  # it died, and was to be started again
                self._remove(node)
            elif node.name not in self._leaving and is_idle(node.state_file):
                self._retire(node)

    def _retire(self, node: Node) -> None:
        if node.name not in self._leaving:
            self._leaving.add(node.name)
            node.retire()  # it may have been given a job just now: that is finished first

    def _remove(self, node: Node) -> None:
        self.parts.remove(node)
        self._leaving.discard(node.name)
        shutil.rmtree(node.directory.parent, ignore_errors=True)
        self._left.append(node.name)
        if len(self._left) > _LOGS_OF_LEFT_NODES:
            (self.logs / f"{self._left.popleft()}.log").unlink(missing_ok=True)
        self.tell("left", name=node.name, nodes=len(self.nodes))

    def _new_node(self) -> Node:
        self._node_count += 1
        node = self._node(self._node_count)
        self._launch(node)
        return node

    def _replace(self, node: Node) -> None:
        """Another node with a new name and empty folders, as a provider would give."""
        self.parts.remove(node)
        shutil.rmtree(node.directory.parent, ignore_errors=True)
        other = self._new_node()
        self.tell("replaced", name=node.name, by=other.name, pid=other.pid)


def bound_logs(folder: Path) -> None:
    """Halve what a log may take: one that has grown too large becomes ``….log.1`` and starts anew.

    Copied and truncated, because its writer keeps it open; it appends, so it goes on at the new start.
    """
    for log in folder.glob("*.log"):
        with contextlib.suppress(OSError):  # a full disk must not end what runs; a log may just have gone
            if log.stat().st_size > _LOG_BYTES:
                try:
                    shutil.copyfile(log, log.with_suffix(".log.1"))
                finally:
                    os.truncate(log, 0)


def _stop_together(stage: list[Server], grace_s: float, hurry: Callable[[], bool]) -> bool:
    """SIGTERM to all of them, their grace, SIGKILL. False when asked to hurry meanwhile."""
    for part in stage:
        if part.running and part.process is not None:
            part.process.terminate()
    deadline = time.monotonic() + grace_s
    while any(part.running for part in stage) and time.monotonic() < deadline:
        if hurry():
            return False
        time.sleep(0.02)
    for part in stage:
        part.kill()
    return True
