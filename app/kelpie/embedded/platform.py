"""A platform on one machine, seen from the process that starts it: start, listen, stop."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from kelpie.embedded.options import Event, Options, Ready
from kelpie.errors import StartupError

_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 75.0  # above the sum of the parts' graces
_KILL_TIMEOUT_S = 15.0


class Platform:
    """Valkey, S3, API, platform process and nodes under one guard (see guard.py).

    A context manager: started on entry, stopped in order on exit. When this process dies, whatever kills it,
    the guard notices and ends everything.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.guard: subprocess.Popen[bytes] | None = None
        self._ready: Ready | None = None
        self._buffer = b""

    @property
    def ready(self) -> Ready:
        """Where it is and how to get in. RuntimeError before it serves."""
        if self._ready is None:
            raise RuntimeError("the platform does not serve yet")
        return self._ready

    def launch(self) -> None:
        """Start the guard; events follow. StartupError when the folder cannot be made."""
        data = Path(self.options.data)
        logs = data / "logs"
        try:
            data.mkdir(parents=True, exist_ok=True, mode=0o700)
            logs.mkdir(exist_ok=True)
        except OSError as error:
            raise StartupError(f"the folder {data} cannot be made: {error.strerror}") from error
        with (logs / "guard.log").open("ab") as log:
            self.guard = subprocess.Popen(
                [sys.executable, "-m", "kelpie.embedded.guard", self.options.to_json()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def start(self) -> Ready:
        """Start it and wait until it serves. StartupError says what is wrong."""
        self.launch()
        deadline = time.monotonic() + _START_TIMEOUT_S
        while self._ready is None:
            event = self.next_event(1.0)
            if event is None and not self.running:
                raise StartupError(f"the guard ended unexpectedly; see {self.options.data}/logs/guard.log")
            if event is not None and event.kind == "failed":
                self.stop()
                raise StartupError(str(event.data["message"]))
            if time.monotonic() > deadline:
                self.kill()
                raise StartupError(
                    f"nothing serves after {_START_TIMEOUT_S:g} s; see {self.options.data}/logs"
                )
        return self._ready

    @property
    def running(self) -> bool:
        """Whether the guard exists."""
        return self.guard is not None and self.guard.poll() is None

    def next_event(self, timeout_s: float) -> Event | None:
        """The next event within ``timeout_s`` seconds, if any."""
        if self.guard is None or self.guard.stdout is None:
            raise RuntimeError("the platform was not started")
        deadline = time.monotonic() + timeout_s
        descriptor = self.guard.stdout.fileno()
        while b"\n" not in self._buffer:
            readable, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                return None
            data = os.read(descriptor, 65536)
            if not data:  # the guard has ended
                self.guard.wait()
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        data = json.loads(line)
        event = Event(data.pop("kind"), data)
        if event.kind == "ready":
            self._ready = Ready(**event.data)
        return event

    def ask_to_stop(self) -> None:
        """Have everything stopped in order; events follow, ``stopped`` last."""
        self._tell(b"stop\n")

    def ask_to_kill(self) -> None:
        """Have everything killed at once."""
        self._tell(b"kill\n")

    def stop(self) -> None:
        """Stop everything in order and wait for it. Harmless when it is not running."""
        self.ask_to_stop()
        self._wait(_STOP_TIMEOUT_S)

    def kill(self) -> None:
        """Kill everything and wait for it. Harmless when it is not running."""
        self.ask_to_kill()
        self._wait(_KILL_TIMEOUT_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.stop()
        else:
            self.kill()

    def _tell(self, line: bytes) -> None:
        if self.guard is not None and self.guard.stdin is not None and not self.guard.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self.guard.stdin.write(line)
                self.guard.stdin.flush()

    def _wait(self, timeout_s: float) -> None:
        """Read on, so that the guard is never held up by a full pipe, until it has ended."""
        if self.guard is None:
            return
        deadline = time.monotonic() + timeout_s
        while self.running:
            if time.monotonic() > deadline:
                self.guard.kill()  # its children die with it
                self.guard.wait()
            self.next_event(0.2)
        for pipe in (self.guard.stdin, self.guard.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self.guard = None
