"""Everything that a run needs: servers that may die, nodes, and one user's jobs on them."""

from __future__ import annotations

import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import urllib3

from kelpie.embedded.processes import Server, spawn
from kelpie.embedded.s3 import S3Server
from kelpie.embedded.valkey import ValkeyServer
from kelpie.errors import StartupError
from tests.api import ApiServer, ApiUser, environment_without_kelpie
from tests.proof.faults.machine import Machine
from tests.proof.faults.work import Work

MARK = "FAULTS_RUN"
"""The variable by which every process of a run is known, whatever it has become."""

_PATIENCE_S = 90.0
_BUCKET = "faults"


class Servers:
    """Valkey, the API and S3. Each may be killed and started again; its address stays."""

    def __init__(self, directory: Path) -> None:
        self._stack = ExitStack()
        # A process dies with the thread that started it (see kelpie/embedded/launcher.py): these stay.
        self._keepers = self._stack.enter_context(ThreadPoolExecutor(2, "keeper"))
        self._launcher = self._stack.enter_context(ThreadPoolExecutor(1, "launcher"))
        self.broker = self._stack.enter_context(ValkeyServer(directory / "valkey"))
        self.api = self._stack.enter_context(ApiServer(self.broker.url, directory / "api"))
        self.s3 = self._stack.enter_context(S3Server(directory / "s3"))
        self.s3.ensure_bucket(_BUCKET)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def launch(self, argv: list[str], **how: Any) -> subprocess.Popen[bytes]:
        """A process that dies with this one, whichever thread asks for it."""
        return self._launcher.submit(spawn, argv, **how).result()

    def restart(self, server: Server) -> None:
        """Until it serves: the API ends at its start while Valkey is away."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self._keepers.submit(server.start).result()
            except StartupError:
                if time.monotonic() > deadline:
                    raise
            else:
                return


class Site:
    """One seed's nodes and jobs, on a queue and below prefixes of their own."""

    def __init__(
        self, seed: int, servers: Servers, root: Path, nodes: int, *, library: Path, mounts: bool
    ) -> None:
        self.seed = seed
        self.servers = servers
        self.bucket = _BUCKET
        self.mark = uuid.uuid4().hex
        self.works: dict[str, Work] = {}
        """Every job that was submitted, by its id."""
        self._user: ApiUser = servers.api.new_user()
        self._group = f"faults-{self.mark[:8]}"
        self.prefix = f"{self.mark[:8]}/"
        root.mkdir(parents=True)
        environment = environment_without_kelpie() | {
            MARK: self.mark,
            "KELPIE_API_URL": servers.api.url,
            "KELPIE_API_KEY": self._user.key,
            "SALAD_CONTAINER_GROUP_ID": self._group,
            "KELPIE_NOTICES": "none",
            "KELPIE_DELETION_COST": "false",
            "KELPIE_GRACE_S": "1",
            "KELPIE_LOG_INTERVAL_S": "0.5",
            "KELPIE_STALL_TIMEOUT_S": "3",
            "KELPIE_MIN_FREE_DISK_MIB": "16",
            "KELPIE_PART_SIZE": str(5 * 1024 * 1024),
            "FILE_WATCHER_DEBOUNCE_MS": "50",
            "FILE_WATCHER_MAX_WAIT_MS": "200",
            # Nothing listens there: a machine without a metadata service.
            "KELPIE_IMDS_URL": "http://127.0.0.1:9",
            **servers.s3.environment,
        }
        self.machines = [
            Machine(f"node{number}", root, environment, launch=servers.launch, library=library, mounts=mounts)
            for number in range(nodes)
        ]

    def submit(self, number: int) -> None:
        """Submit the seed's job of that number, exactly once whatever happens meanwhile."""
        work = Work.of(self.seed, number)
        for name, data in work.inputs.items():
            self._patiently(lambda name=name, data=data: self._put(self.key(work, name), data))  # type: ignore[misc]
        body = work.body(self.bucket, self._group)
        for entries in body["sync"].values():
            for entry in entries:
                entry["prefix"] = self.prefix + entry["prefix"]
        headers = {"Idempotency-Key": f"{self.mark}-{number}"}
        answer = self.ask("POST", "/jobs", json=body, headers=headers)
        self.works[answer["id"]] = work

    def key(self, work: Work, name: str) -> str:
        """The key of one object of a job."""
        return f"{self.prefix}{work.prefix}{name}"

    def job(self, job_id: str) -> dict[str, Any]:
        """The job with its attempts."""
        found: dict[str, Any] = self.ask("GET", f"/jobs/{job_id}?expand=attempts")
        return found

    def events(self, job_id: str) -> list[dict[str, Any]]:
        """All that happened to the job, the oldest first."""
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            page = self.ask("GET", f"/jobs/{job_id}/events?page_size=1000{after}")
            if not page["events"]:
                return found
            found += page["events"]
            after = f"&after={page['next']}"

    def ask(self, method: str, path: str, **how: Any) -> Any:
        """A call that must succeed once the API is there again."""

        def once() -> Any:
            status, _, answer = self._user.request(method, path, **how)
            if status >= 500:
                raise ConnectionError(f"{method} {path}: {status} {answer}")
            assert 200 <= status < 300, (method, path, status, answer)
            return answer

        return self._patiently(once)

    @staticmethod
    def _patiently(action: Callable[[], Any]) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        deadline = time.monotonic() + _PATIENCE_S
        pause = threading.Event()
        while True:
            try:
                return action()
            except (OSError, urllib3.exceptions.HTTPError, BotoCoreError, ClientError):
                if time.monotonic() > deadline:
                    raise
            pause.wait(0.2)

    def _put(self, key: str, data: bytes) -> None:
        client = self.servers.s3.client()
        try:
            client.put_object(Bucket=self.bucket, Key=key, Body=data)
        finally:
            client.close()

    def close(self) -> None:
        """End every node."""
        for machine in self.machines:
            machine.close()
