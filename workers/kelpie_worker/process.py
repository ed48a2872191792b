"""One command: started in a session of its own, ended as a whole group, its end told apart by kind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kelpie_worker import launcher

_GROUP_POLL_S = 0.05
_LAUNCHER = launcher.__file__


@dataclass(frozen=True, slots=True)
class Exit:
    """How a command ended. ``code`` follows the shell: 128 + n for death by signal n."""

    code: int
    signal: int | None = None
    not_started: str | None = None  # why the command never began

    @property
    def reason(self) -> str:
        """In words, for people."""
        if self.not_started is not None:
            return self.not_started
        if self.signal is None:
            return f"exit code {self.code}"
        with contextlib.suppress(ValueError):
            return f"killed by signal {self.signal} ({signal.Signals(self.signal).name})"
        return f"killed by signal {self.signal}"


class CommandNotStartedError(Exception):
    """The command does not exist or cannot be executed; ``exit`` has the code that a shell would give."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit = Exit(code, not_started=message)


class Command:
    """A running command and its process group.

    stdin is ``/dev/null``, stdout and stderr are the worker's own, the working directory is the worker's. The
    command is killed by the kernel when the *thread* that starts it ends, so start it from a thread that
    lasts as long as the worker (PR_SET_PDEATHSIG, see prctl(2)).
    """

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], on_exit: Callable[[], None]) -> None:
        """Start it; ``on_exit`` is called from another thread when it has ended. CommandNotStartedError."""
        self.exited = threading.Event()
        self._on_exit = on_exit
        self._process = _launch(argv, env)
        self._waiter = threading.Thread(target=self._wait, name=f"wait-{self.pid}", daemon=True)
        self._waiter.start()

    @property
    def pid(self) -> int:
        """The id of the command, of its group and of its session."""
        return self._process.pid

    def end(self, grace_s: float, hurry: threading.Event) -> bool:
        """SIGTERM to the whole group, SIGKILL to what is left of it after ``grace_s`` seconds.

        ``hurry``, once set, ends the grace. Returns whether the command itself was still running when it was
        told: if it was, its exit code says nothing about its work. Also takes care of processes that a
        command left behind in its group, so that nothing writes to the job's folders afterwards.
        """
        told = not self.exited.is_set()
        if told or _group_lives(self.pid):
            self._signal(signal.SIGTERM)
            deadline = time.monotonic() + grace_s
            while time.monotonic() < deadline and _group_lives(self.pid):
                if hurry.wait(_GROUP_POLL_S):
                    break
            self._signal(signal.SIGKILL)
        return told

    def reap(self) -> Exit:
        """Wait for the end of the command and say how it ended. Comes after :meth:`end`."""
        self._waiter.join()
        status = self._process.wait()
        return Exit(status) if status >= 0 else Exit(128 - status, signal=-status)

    def _wait(self) -> None:
        # WNOWAIT leaves the dead command in the process table: its id, which is the group's, stays taken
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        self.exited.set()
        self._on_exit()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def _launch(argv: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    read_end, write_end = os.pipe()
    order_fd = os.memfd_create("kelpie-order") if hasattr(os, "memfd_create") else _temporary_file()
    try:
        order = {"argv": list(argv), "env": dict(env), "parent": os.getpid(), "report": write_end}
        os.write(order_fd, json.dumps(order).encode("ascii"))
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", _LAUNCHER, str(order_fd)],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(order_fd, write_end),
        )
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(order_fd)
        os.close(write_end)
    with open(read_end, encoding="utf-8", errors="replace") as report:  # noqa: PTH123  (an open file)
        why = report.read()
    if why:
        raise CommandNotStartedError(f"{why}: {argv[0][:200]!r}", process.wait())
    return process


def _temporary_file() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _group_lives(group: int) -> bool:
    """Whether any process of the group is more than a zombie."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # pid (name) state ppid pgrp …; the name may hold blanks and brackets
            state, _, pgrp = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(pgrp) == group and state not in "ZX":
                return True
    return False
