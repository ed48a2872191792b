"""Several processes that begin a measured piece of work at the same moment.

A member is a program that connects, prints ``ready``, waits for a line, works, and prints one JSON object:
``done`` (pieces of work), ``start`` and ``end`` (seconds of CLOCK_MONOTONIC, which all processes share), and
``cpu`` (seconds that it computed meanwhile).
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

TIMEOUT_S = 120.0

ROOT = Path(__file__).parents[2]


def member(work: Callable[[], int]) -> None:
    """The program of a member that is written in Python: ``work`` returns how much it did."""
    report = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is not for the leader
    print("ready", file=report, flush=True)
    sys.stdin.readline()
    start, spent = time.monotonic(), time.process_time()
    done = work()
    answer = {"done": done, "start": start, "end": time.monotonic(), "cpu": time.process_time() - spent}
    print(json.dumps(answer), file=report, flush=True)


class Crew:
    """Members that were started and are ready."""

    def __init__(self, members: Sequence[subprocess.Popen[str]]) -> None:
        self._members = members

    def go(self) -> None:
        """Let all of them begin."""
        for process in self._members:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()

    def answers(self) -> list[dict[str, Any]]:
        """What each of them reports when it is done."""
        return [json.loads(_line(process)) for process in self._members]

    def rate(self, expected: int) -> tuple[float, float]:
        """Pieces of work per second, from the first start to the last end, and CPU µs of each piece.

        RuntimeError when they did more or less than ``expected`` together.
        """
        self.go()
        answers = self.answers()
        done = sum(answer["done"] for answer in answers)
        if done != expected:
            raise RuntimeError(f"{self._members[0].args!r}: {done} done instead of {expected}")
        seconds = max(answer["end"] for answer in answers) - min(answer["start"] for answer in answers)
        return done / seconds, sum(answer["cpu"] for answer in answers) * 1e6 / done


@contextlib.contextmanager
def crew(
    argvs: Sequence[Sequence[str]], *, cwd: Path | None = None, timeout_s: float = TIMEOUT_S
) -> Iterator[Crew]:
    """One member per argv, run in ``cwd`` (None: the repository).

    When they are not done in time they are killed, and the benchmark fails with RuntimeError.
    """
    members = [
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=cwd or ROOT)
        for argv in argvs
    ]
    alarm = threading.Timer(timeout_s, lambda: _kill(members))
    alarm.daemon = True
    alarm.start()
    try:
        for process in members:
            if _line(process) != "ready":
                raise RuntimeError(f"{process.args!r} does not begin with 'ready'")
        yield Crew(members)
        for process in members:
            process.wait()
    finally:
        alarm.cancel()
        for process in members:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()


def _kill(members: Sequence[subprocess.Popen[str]]) -> None:
    for process in members:
        process.kill()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise RuntimeError(f"{process.args!r} ended early, or was not done in time")
    return line
