"""Real nodes: `kelpie worker` processes, each in a folder of its own, that a test may kill and pause."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from tests.api import ApiUser, environment_without_kelpie
from tests.waiting import wait_until


class Node:
    """One worker process and the folder that it works in."""

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.folder = folder
        self.log = folder / "worker.log"
        self.state_file = folder / "kelpie-state.json"
        self._environment = dict(environment)
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "kelpie.cli", "worker"],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL: the machine vanishes."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.terminate()
        return self.process.wait(60)

    def pause(self) -> None:
        """SIGSTOP: the machine freezes."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Whatever it does, it and its commands are gone afterwards."""
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            self.process.wait()
            for one in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()

    def says(self, text: str) -> bool:
        """Whether its log holds the text."""
        return text in self.log.read_text(errors="replace")


class Fleet:
    """A user's nodes on one queue, and his jobs."""

    def __init__(
        self, api: ApiUser, root: Path, group: str, *, api_url: str | None = None, storage: Mapping[str, str]
    ) -> None:
        self.api = api
        self.root = root
        self.group = group
        self.nodes: list[Node] = []
        self.environment = environment_without_kelpie() | {
            "KELPIE_API_URL": api_url or api.url,
            "KELPIE_API_KEY": api.key,
            "SALAD_CONTAINER_GROUP_ID": group,
            "KELPIE_GRACE_S": "2",
            # Jobs of a few seconds rewrite their checkpoint all the time.
            "FILE_WATCHER_DEBOUNCE_MS": "100",
            "FILE_WATCHER_MAX_WAIT_MS": "200",
            # Nothing listens there: a node without a metadata service, at once rather than after a timeout.
            "KELPIE_IMDS_URL": "http://127.0.0.1:9",
            **storage,
        }

    def node(self, name: str | None = None, **environment: str) -> Node:
        """Start a node."""
        name = name or f"node-{len(self.nodes) + 1}"
        node = Node(name, self.root / name, self.environment | {"SALAD_MACHINE_ID": name} | environment)
        self.nodes.append(node)
        return node

    def submit(self, script: str, **overrides: Any) -> str:
        """Submit a shell script; the job's id. Heartbeats every second unless told otherwise."""
        body = {
            "command": "sh",
            "arguments": ["-c", script],
            "container_group_id": self.group,
            "heartbeat_interval": 1,
            "sync": {},
        }
        return self.api.submit(body | overrides)["id"]

    def job(self, job_id: str) -> dict[str, Any]:
        """The job with its attempts, now."""
        return self.api.job(job_id)

    def wait(self, job_id: str, status: str, *, timeout_s: float = 60) -> dict[str, Any]:
        """The job once it has the status."""

        def reached() -> dict[str, Any] | None:
            job = self.job(job_id)
            return job if job["status"] == status else None

        return wait_until(
            reached, f"job is {status}\n{self.describe(job_id)}", timeout_s=timeout_s, poll_s=0.1
        )

    def wait_for(self, job_id: str, **fields: Any) -> dict[str, Any]:
        """The job once its fields have these values."""

        def reached() -> dict[str, Any] | None:
            job = self.job(job_id)
            return job if fields.items() <= job.items() else None

        return wait_until(reached, f"job has {fields}", timeout_s=60, poll_s=0.05)

    def holder(self, job_id: str) -> Node:
        """The node of the job's last attempt."""
        name = self.job(job_id)["machine_id"]
        return next(node for node in self.nodes if node.name == name)

    def describe(self, job_id: str) -> str:
        """What to read when a wait fails."""
        logs = "\n".join(f"--- {node.log}" for node in self.nodes)
        return f"job {job_id}; logs:\n{logs}"

    def close(self) -> None:
        """End every node."""
        for node in self.nodes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(node.process.pid, signal.SIGCONT)
            node.end()


def up(bucket: str, prefix: str, path: str) -> dict[str, str]:
    """A sync entry that uploads."""
    return {"bucket": bucket, "prefix": prefix, "local_path": path, "direction": "upload"}


def down(bucket: str, prefix: str, path: str) -> dict[str, str]:
    """A sync entry that downloads."""
    return {"bucket": bucket, "prefix": prefix, "local_path": path, "direction": "download"}


def outcomes(job: dict[str, Any]) -> list[str | None]:
    """How the job's attempts ended, oldest first."""
    return [attempt["outcome"] for attempt in job["attempts"]]


def is_gone(pid: int) -> bool:
    """Whether the process has ended (a zombie has)."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def now_ms() -> int:
    """Wall-clock milliseconds, as the server's times are."""
    return round(time.time() * 1000)
