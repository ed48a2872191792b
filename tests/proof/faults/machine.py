"""A node with a disk, links and clocks of its own, and whoever starts its worker again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from kelpie_worker.exit_codes import REPLACE_NODE
from tests.proof.faults.disk import Disk
from tests.proof.faults.link import Link
from tests.proof.faults.shim import Steering
from tests.waiting import wait_until

UPLOADS = ".kelpie-uploads.json"
"""Where a worker notes the multipart uploads under way."""
DIE_TIMEOUT_S = 20.0
"""How long what a killed worker has started may outlive it: its guardian has to be scheduled once."""
STOP_TIMEOUT_S = 60.0


class Machine:
    """One worker process at a time. ``id`` is another one after the machine was lost."""

    def __init__(
        self,
        name: str,
        root: Path,
        environment: Mapping[str, str],
        *,
        launch: Callable[..., subprocess.Popen[bytes]],
        library: Path,
        mounts: bool,
    ) -> None:
        """``environment``: what every node is told; its addresses are led through links. ``launch`` starts a
        process that dies with the run."""
        self.name = name
        self.killed_commands: set[tuple[str, int]] = set()
        """(job, attempt) of the commands that got a SIGKILL from outside."""
        self.ids_with_full_disk: set[str] = set()
        self.lost_uploads: set[str] = set()
        """Ids of the multipart uploads that were under way when a machine was lost with its notes on them."""
        self.complaints: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None
        self._root = root
        self._environment = environment
        self._launch = launch
        self._library = library
        self._mounts = mounts
        self._generation = 0
        self._log_start = 0  # of the worker that runs now
        self._stack = ExitStack()
        self.api = self._stack.enter_context(Link(environment["KELPIE_API_URL"]))
        self.store = self._stack.enter_context(Link(environment["AWS_ENDPOINT_URL_S3"]))
        self._furnish()

    def _furnish(self) -> None:
        self._generation += 1
        self.id = f"{self.name}-{self._generation}"
        self.log = self._root / f"{self.id}.log"
        self.log.touch()
        self.disk = Disk(self._root / self.id, mounted=self._mounts)
        (self.disk.folder / "tmp").mkdir()
        self.steering = Steering(self._library, self._root / f"{self.id}.control")

    def start(self) -> None:
        """Start its worker."""
        temporary = str(self.disk.folder / "tmp")
        environment = {
            **self._environment,
            **self.steering.environment,
            "SALAD_MACHINE_ID": self.id,
            "KELPIE_API_URL": self.api.url,
            "AWS_ENDPOINT_URL_S3": self.store.url,
            "TMPDIR": temporary,
            "KELPIE_TEMP_DIR": temporary,
        }
        self._log_start = self.log.stat().st_size
        argv = [sys.executable, "-m", "kelpie.cli", "worker"]
        self.process = self._launch(argv, log=self.log, env=environment, cwd=self.disk.folder)

    @property
    def running(self) -> bool:
        """Whether its worker lives."""
        return self.process is not None and self.process.poll() is None

    def tend(self) -> None:
        """What a supervisor does: a worker that asks for another machine gets one, none other may end."""
        if self.process is None or self.running:
            return
        if self.process.returncode == REPLACE_NODE:
            self.replace()
        else:
            self._complain(f"its worker ended by itself with {self.process.returncode}")
            self.start()

    def family(self) -> list[psutil.Process]:
        """The worker and all that descends from it."""
        if not self.running:
            return []
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            worker = psutil.Process(self.process.pid)
            return [worker, *worker.children(recursive=True)]
        return []

    def kill(self) -> None:
        """SIGKILL of the worker alone: what it has started must end by itself."""
        family = self.family()
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()
        _, left = psutil.wait_procs(family[1:], timeout=DIE_TIMEOUT_S)
        for each in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._complain(f"process {each.pid} outlives its worker: {each.cmdline()}")
                each.kill()

    def replace(self) -> None:
        """The machine is lost with its disk; another one takes its place."""
        self.kill()
        with contextlib.suppress(FileNotFoundError):
            self.lost_uploads |= json.loads((self.disk.folder / UPLOADS).read_text()).keys()
        self.disk.remove()
        self.steering.close()
        self._furnish()
        self.start()

    def terminate(self) -> None:
        """SIGTERM, and the worker ends in good order."""
        assert self.process is not None
        if not self.running:
            return
        began = any(each["event"] == "worker started" for each in self.events(self._log_start))
        self.process.terminate()
        try:
            code = self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._complain(f"its worker does not end within {STOP_TIMEOUT_S:g} s of SIGTERM")
            self.kill()
            return
        if code not in {0, REPLACE_NODE} and began:  # before, nothing listens for the signal
            self._complain(f"its worker ended with {code} at SIGTERM")

    def signal(self, number: signal.Signals, *, everything: bool) -> bool:
        """To the worker, or to all that descends from it too; whether it was there."""
        family = self.family()
        for each in family if everything else family[:1]:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                os.kill(each.pid, number)
        return bool(family)

    def command(self) -> tuple[str, int, int] | None:
        """(job, attempt, pid) of the command that runs here, by the worker's own word."""
        running: dict[tuple[str, int], int] = {}
        for line in self.events():
            if line["event"] == "command started":
                running[line["job_id"], line["attempt"]] = line["pid"]
            elif line["event"] == "command ended":
                running.pop((line["job_id"], line["attempt"]), None)
            elif line["event"] == "worker started":
                running.clear()
        for (job, attempt), pid in reversed(running.items()):
            return job, attempt, pid
        return None

    def events(self, after: int = 0) -> Iterator[dict[str, Any]]:
        """What the worker has logged from this byte on."""
        with self.log.open("rb") as file:
            file.seek(after)
            for line in file:
                with contextlib.suppress(ValueError):
                    event = json.loads(line)
                    if isinstance(event, dict) and "event" in event:
                        yield event

    def wait_for(self, event: str, timeout_s: float) -> bool:
        """Whether the worker logs this from now on, in time."""
        size = self.log.stat().st_size
        with contextlib.suppress(AssertionError):
            return wait_until(
                lambda: any(each["event"] == event for each in self.events(size)),
                event,
                timeout_s=timeout_s,
                poll_s=0.01,
            )
        return False

    def close(self) -> None:
        """Whatever it does, nothing of it stays."""
        for each in self.family()[::-1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        if self.process is not None:
            self.process.wait()
        self._stack.close()
        self.steering.close()
        self.disk.remove()

    def _complain(self, what: str) -> None:
        self.complaints.append(f"{self.id}: {what} ({time.strftime('%H:%M:%S')})")
