"""The guard: the process that really supervises a platform on one machine.

``python -m kelpie.embedded.guard OPTIONS_JSON``, started by :class:`kelpie.embedded.platform.Platform`. It
lives in a session of its own, out of reach of the terminal's Ctrl-C, and adopts every orphan below it. Its
standard input is a pipe from the process that started it: a line ``stop`` ends everything in order, ``kill``
at once, and the end of the pipe says that its starter is dead, whatever killed it; then it stops everything
quickly. On its standard output it writes one JSON object per event.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

from kelpie.embedded.options import Options
from kelpie.embedded.process_tree import adopt_orphans, kill_descendants
from kelpie.embedded.stack import Stack
from kelpie.errors import KelpieError

_TICK_S = 0.1
_STOP, _KILL = b"stop", b"kill"


class Halt(Exception):
    """The platform has to end. ``quick``: whoever asked is gone. ``now``: without order."""

    def __init__(self, *, quick: bool = False, now: bool = False) -> None:
        super().__init__()
        self.quick = quick
        self.now = now


class Control:
    """What the starter asks for, read from the pipe without blocking."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = b""
        self._terminated = False
        signal.signal(signal.SIGTERM, self._on_term)
        for name in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(name, signal.SIG_IGN)

    def check(self, wait_s: float = 0.0) -> None:
        """Raise Halt when the platform has to end; wait up to ``wait_s`` for that."""
        readable, _, _ = select.select([self._descriptor], [], [], wait_s)
        if readable:
            data = os.read(self._descriptor, 4096)
            if not data:
                raise Halt(quick=True)
            self._buffer += data
        if _KILL in self._buffer:
            raise Halt(now=True)
        if _STOP in self._buffer or self._terminated:
            raise Halt

    def killed(self) -> bool:
        """Whether, while stopping, an end at once was asked for."""
        readable, _, _ = select.select([self._descriptor], [], [], 0)
        if readable:
            self._buffer += os.read(self._descriptor, 4096)
        return _KILL in self._buffer

    def _on_term(self, _signal: int, _frame: FrameType | None) -> None:
        self._terminated = True


def tell(kind: str, **data: Any) -> None:
    """Write one event. Nobody may be there to read it."""
    try:
        os.write(sys.stdout.fileno(), json.dumps({"kind": kind, **data}).encode() + b"\n")
    except OSError:
        return


def run(options: Options, control: Control, tell: Callable[..., None] = tell) -> None:
    """Bring the platform up, keep it up, and end it. Leaves no process behind."""
    adopt_orphans()
    stack = Stack(options, tell)
    try:
        try:
            ready = stack.start(control.check)
            tell("ready", **ready)
            while True:
                stack.mend()
                control.check(_TICK_S)
        except Halt as halt:
            tell("stopping")
            if not halt.now:
                stack.stop(quick=halt.quick, hurry=control.killed)
            tell("stopped")
    except KelpieError as error:
        tell("failed", message=str(error))
    except Exception as error:  # noqa: BLE001 -- whatever it is, the starter must hear of it
        traceback.print_exc()
        tell("failed", message=f"{type(error).__name__}; see {options.data}/logs/guard.log")
    finally:
        kill_descendants()
        stack.close()


def main() -> None:
    """Run the platform that the command line describes."""
    started = time.monotonic()
    run(Options.from_json(sys.argv[1]), Control(sys.stdin.fileno()))
    sys.stderr.write(f"guard of pid {os.getpid()} ended after {time.monotonic() - started:.0f} s\n")


if __name__ == "__main__":
    main()
