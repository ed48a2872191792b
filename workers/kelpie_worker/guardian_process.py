"""The guardian of one command, seen from the worker: its process, the orders it is given, the words it says.

Both ways are sockets: whoever runs as the same user opens a pipe of another process by its name in /proc, and
a command could tell its own end, or have it taken for one that it was told to.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from kelpie_worker import guardian, orphans
from kelpie_worker.memory_limit import CommandGroup
from kelpie_worker.programs import FROZEN, GUARDIAN, lean_program

_LOOK_S = 1.0
MAX_STOPS = 30
"""How often a guardian is found stopped and continued before it is given up, and the command with it."""
QUIET_S = 60.0
"""After so long without one, stops are counted anew: a command may run for weeks."""
MAX_WORD_BYTES = 4096
"""Of a line from a guardian."""

_PROGRAM = None if FROZEN else Path(guardian.__file__).read_text(encoding="utf-8")
"""As it was when this worker began: an upgrade may have replaced the file, or be about to."""

_WORDS = {
    "pid": int,
    "started": bool,
    "why": str,
    "code": int,
    "exit": int,
    "signal": int,
    "told": bool,
    "left": int,
}

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


class GuardianProcess:
    """A guardian that has been started with the order to start a command."""

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        stdout: int | None,
        stderr: int | None,
        group: CommandGroup | None,
    ) -> None:
        """OSError: it cannot be started."""
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as its:

            def pair(kept_by: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
                one, other = socket.socketpair()
                return kept_by.enter_context(one), its.enter_context(other)

            self._report, report = pair(ours)
            self._words = ours.enter_context(self._report.makefile("rb"))
            self._orders, orders = pair(ours)
            started = [end.fileno() for end in pair(its)]
            wake = [end.fileno() for end in pair(its)]
            order = {
                "argv": list(argv),
                "env": dict(env),
                "report": report.fileno(),
                "started": started,
                "wake": wake,
                "group": None if group is None else str(group.processes),
                "program": _PROGRAM,
            }
            order_fd = _file_of(json.dumps(order).encode("ascii"))
            its.callback(os.close, order_fd)
            with orphans.starting():
                self._process = subprocess.Popen(
                    [*lean_program(GUARDIAN), str(order_fd)],
                    stdin=orders.fileno(),
                    stdout=stdout,
                    stderr=stderr,
                    start_new_session=True,
                    pass_fds=(order_fd, report.fileno(), *started, *wake),
                )
                self.pid = self._process.pid
                orphans.own(self.pid)
            ours.pop_all()  # they are open until close

    def word(self) -> dict[str, Any]:
        """The next one; empty when it has ended, and when somebody else has spoken for it: then nothing that
        is read here can be believed, and it is given up."""
        line = self._words.readline(MAX_WORD_BYTES)
        word = _word(line)
        if word is None:
            _log.error("what a guardian says is not its own: it is given up", said=repr(line[:80]))
            self.give_up()
        return word or {}

    def order(self, order: bytes) -> None:
        """Send ``guardian.TERM`` or ``guardian.KILL``, if it is there to hear that."""
        with contextlib.suppress(OSError):
            self._orders.sendall(order)

    def keep_going(self, gone: threading.Event) -> None:
        """Continue it until ``gone`` is set: when somebody stops it, maybe the command, it tells no end and
        kills nothing."""
        stops, last_s, dead = 0, 0.0, False
        while not gone.wait(_LOOK_S):
            state = guardian.state_of(self.pid)
            if state in guardian.DEAD:
                if dead:  # and still something keeps its socket open
                    orphans.kill()
                dead = True
            if state not in guardian.STOPPED:
                continue
            now = time.monotonic()
            stops = stops + 1 if now - last_s < QUIET_S else 1
            last_s = now
            if stops > MAX_STOPS:
                _log.error("the guardian of a command is stopped again and again", pid=self.pid)
                self.kill()
                return
            if stops == 1:
                _log.warning("the guardian of a command was stopped; it goes on", pid=self.pid)
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL it; the kernel kills the command with it."""
        self._process.kill()

    def give_up(self) -> None:
        """SIGKILL it, and first all that is below it, which could else live on."""
        with contextlib.suppress(OSError):  # no /proc
            guardian.kill_below(self.pid)
        self.kill()

    def close(self) -> None:
        """Wait for its end, which this brings about if nothing else did."""
        for kept in (self._words, self._report, self._orders):
            kept.close()
        self._process.wait()
        orphans.disown(self.pid)


def _word(line: bytes) -> dict[str, Any] | None:
    """A line of a guardian; empty at its end, None when no guardian says that."""
    if not line:
        return {}
    try:
        word = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(word, dict) or not word:
        return None
    if any(type(value) is not _WORDS.get(name) for name, value in word.items()):
        return None
    if "told" in word and len(word.keys() & {"exit", "signal"}) != 1:
        return None
    return word


def _file_of(content: bytes) -> int:
    """An open file without a name, to be read from its beginning."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("kelpie-order")
    else:
        with tempfile.TemporaryFile() as unnamed:
            descriptor = os.dup(unnamed.fileno())
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
