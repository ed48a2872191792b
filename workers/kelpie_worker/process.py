"""One command: started under a guardian, ended with all that descends from it, its end told apart by kind."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from kelpie_worker import guardian, orphans
from kelpie_worker.guardian_process import GuardianProcess
from kelpie_worker.memory_limit import CommandGroup
from kelpie_worker.oom import OomCounter

_HURRY_POLL_S = 0.05
_GONE_TIMEOUT_S = guardian.KILL_TIMEOUT_S + 5.0

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Exit:
    """How a command ended. ``code`` follows the shell: 128 + n for death by signal n."""

    code: int
    signal: int | None = None
    out_of_memory: bool = False  # the kernel killed it, or something that it started, for lack of memory
    not_started: str | None = None  # why the command never began
    guardian_killed: bool = False  # by somebody else, and the command with it: no word about its work

    @property
    def reason(self) -> str:
        """In words, for people."""
        if self.not_started is not None:
            return self.not_started
        if self.guardian_killed:
            return "killed with the process that guards the command: does it kill its parent?"
        what = f"exit code {self.code}" if self.signal is None else f"killed by signal {_named(self.signal)}"
        if not self.out_of_memory:
            return what
        if self.signal == signal.SIGKILL:
            return f"{what}: out of memory"
        return f"{what}; the kernel killed a process of it: out of memory"


class CommandNotStartedError(Exception):
    """The command does not exist or cannot be executed; ``exit`` has the code that a shell would give."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit = Exit(code, not_started=message)


class Command:
    """A running command and everything that descends from it.

    stdin is ``/dev/null``, stdout and stderr are the worker's own unless file descriptors are given, the
    working directory is the worker's. All of it is killed when this process ends, however it ends.
    """

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        on_exit: Callable[[], None],
        *,
        stdout: int | None = None,
        stderr: int | None = None,
        group: CommandGroup | None = None,
    ) -> None:
        """Start it; ``on_exit`` is called from another thread when it has ended. CommandNotStartedError.

        ``group`` limits its memory, and is deleted with its end.
        """
        self.exited = threading.Event()
        self._on_exit = on_exit
        self._group = group
        self._oom = OomCounter(events=None if group is None else group.events)
        self._exit: Exit | None = None
        self._told = False
        self._gone = threading.Event()
        self._guardian = GuardianProcess(argv, env, stdout, stderr, group)
        try:
            # from the beginning: a command may stop its guardian before that has said that it started
            name = f"guard-{self._guardian.pid}"
            keep_going = self._guardian.keep_going
            threading.Thread(target=keep_going, args=(self._gone,), name=name, daemon=True).start()
            self.pid: int = self._started(argv[0])
            """The id of the command, of its group and of its session."""
            self._watcher = threading.Thread(target=self._watch, name=f"watch-{self.pid}", daemon=True)
            self._watcher.start()
        except CommandNotStartedError:
            self._let_go()
            raise
        except BaseException:  # no thread can be started: nobody would hear of its end
            self._guardian.give_up()
            self._let_go()
            raise

    def end(self, grace_s: float, hurry: threading.Event) -> bool:
        """SIGTERM to all that descends from it, SIGKILL to what is left after ``grace_s`` seconds.

        ``hurry``, once set, ends the grace. Returns whether the command itself was still running when it was
        told: if it was, its exit code says nothing about its work. Also takes care of processes that a
        command left behind, so that nothing writes to the job's folders afterwards.
        """
        running = not self.exited.is_set()
        self._guardian.order(guardian.TERM)
        deadline = time.monotonic() + grace_s
        while not self._gone.wait(max(0.0, min(_HURRY_POLL_S, deadline - time.monotonic()))):
            if time.monotonic() >= deadline or hurry.is_set():
                self._guardian.order(guardian.KILL)
                break
        if not self._gone.wait(_GONE_TIMEOUT_S):
            _log.error("the guardian of a command does not end", pid=self.pid)
            self._guardian.kill()
        return self._told if self.exited.is_set() else running

    def reap(self) -> Exit:
        """Wait for the end of the command and say how it ended. Comes after :meth:`end`."""
        self.exited.wait()
        if not self._gone.is_set():
            self.end(0.0, threading.Event())
        self._watcher.join()
        assert self._exit is not None
        return self._exit

    def _started(self, program: str) -> int:
        first = self._guardian.word()
        said: dict[str, Any] = {"why": "command cannot be started: its guardian ended"}
        if "pid" in first:
            said = self._guardian.word()
        if "why" in said:  # without a word the guardian was killed, maybe by the command: that has begun
            code = said.get("code", guardian.NOT_STARTED)
            raise CommandNotStartedError(f"{said['why']}: {program[:200]!r}", code)
        pid: int = first["pid"]
        return pid

    def _watch(self) -> None:
        told_apart = False
        while report := self._guardian.word():
            if "left" in report:
                _log.error("processes of a command do not die", pid=self.pid, processes=report["left"])
            elif "told" in report:
                told_apart = True
                self._told = report["told"]
                self._end(report.get("exit"), report.get("signal"))
        self._guardian.close()
        if not told_apart:  # the guardian was killed, and the kernel has killed the command with it
            orphans.kill()
            self._end(None, int(signal.SIGKILL), guardian_killed=True)
        self._end_group()
        self._gone.set()

    def _let_go(self) -> None:
        """There is nothing to watch."""
        self._guardian.close()
        self._end_group()
        self._gone.set()

    def _end_group(self) -> None:
        if self._group is not None:
            self._group.end()

    def _end(self, code: int | None, number: int | None, *, guardian_killed: bool = False) -> None:
        failed = code != 0 and not self._told
        out_of_memory = failed and self._oom.rose(of_machine=number == signal.SIGKILL)
        if number is not None:
            self._exit = Exit(
                128 + number,
                signal=number,
                out_of_memory=out_of_memory,
                guardian_killed=guardian_killed and not out_of_memory,
            )
        else:
            self._exit = Exit(code or 0, out_of_memory=out_of_memory)
        self.exited.set()
        self._on_exit()


def _named(number: int) -> str:
    with contextlib.suppress(ValueError):
        return f"{number} ({signal.Signals(number).name})"
    return str(number)
