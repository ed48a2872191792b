"""Starts a job's command, adopts everything that descends from it, and leaves nothing of it behind.

Run as a program of its own, one per command, from the source that came with its order: it outlives a
worker that is killed just long enough to kill what the command has started, also what left its group, its
session or its parents. Between fork and exec nothing of the worker's state is there to go wrong, unlike in a
``preexec_fn``; and this process keeps the worker's environment, so that a job's ``LD_LIBRARY_PATH`` or
``PYTHONHOME`` meets the command alone.

The open file that its first argument numbers holds JSON: ``argv``, ``env``, ``report``, a socket to the
worker, ``started`` and ``wake``, both ends of sockets for its own use, where pipes would be open to the
command, and ``group``, the file by which the command joins its cgroup, or null. Its standard input is a
socket from the worker: ``t`` sends SIGTERM to all there is, ``k`` SIGKILL until nothing is left, and so does
its end, which comes with the end of the worker. Asked for either, it ends when nothing is left.

The report is JSON, one object per line: ``{"pid"}``; ``{"started"}``, or ``{"why", "code"}`` if it does not
(127: not found, 126: anything else, as a shell would say); ``{"exit" or "signal", "told"}`` when the command
has ended, by itself or after a ``t`` or ``k``; ``{"left"}``, the processes that SIGKILL did not end.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False  # one process per command: what it need not import is memory for the command
if TYPE_CHECKING:
    from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36
NOT_FOUND = 127
NOT_STARTED = 126
TERM, KILL = b"t", b"k"

KILL_TIMEOUT_S = 10.0
"""How long SIGKILL is tried: what sleeps in the kernel dies only when that wakes up."""

_POLL_S = 0.05
_OOM_SCORE_STEP = 100
DEAD = frozenset("ZX")
STOPPED = frozenset("Tt")


def prctl(option: int, value: int) -> None:
    """See prctl(2). Without it, on anything but Linux, less is cleaned up."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def state_of(pid: int) -> str:
    """The letter of a process's state; empty when there is none, or nobody can tell."""
    with contextlib.suppress(OSError, IndexError):
        return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0]
    return ""


def descendants(root: int) -> dict[int, tuple[str, int, int]]:
    """Children of a process, their children, and so on: pid → state, parent, group."""
    below: dict[int, list[int]] = {}
    known: dict[int, tuple[str, int, int]] = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):  # noqa: PTH208  (see above)
        with contextlib.suppress(OSError, ValueError):  # gone meanwhile
            # pid (name) state parent group …; the name may hold blanks and brackets
            state, parent, group = _read(f"/proc/{name}/stat").rpartition(")")[2].split()[:3]
            pid = int(name)
            known[pid] = (state, int(parent), int(group))
            below.setdefault(int(parent), []).append(pid)
    found: dict[int, tuple[str, int, int]] = {}
    todo = [root]
    while todo:
        for pid in below.get(todo.pop(), ()):
            found[pid] = known[pid]
            todo.append(pid)
    return found


def kill_below(root: int, spared: frozenset[int] = frozenset()) -> int:
    """SIGKILL what descends from a process, but for the trees of ``spared``; how many are left alive.

    Again and again: a process may fork between being listed and being killed.
    """
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while True:
        doomed = descendants(root)
        for pid in spared & doomed.keys():
            for kept in (pid, *descendants(pid)):
                doomed.pop(kept, None)
        alive = [pid for pid, (state, _, _) in doomed.items() if state not in DEAD]
        if not alive or time.monotonic() > deadline:
            return len(alive)
        for pid in alive:
            _kill(pid, signal.SIGKILL)
        time.sleep(0.01)


class Guardian:
    """The command, the worker at the other end of the sockets, and all that comes to life in between."""

    def __init__(self, command: int, report: int, wake: list[int]) -> None:
        self._command = command
        self._report = report
        self._wake = wake
        self._told = self._killing = self._exited = False

    def watch(self) -> None:
        """Until it was asked to end the command and nothing of it is alive."""
        wake_read, wake_write = self._wake
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self._collect()  # what ended before there was anything to wake up
        while not (self._told and self._nothing_lives()):
            sources = [wake_read] if self._killing else [wake_read, sys.stdin.fileno()]
            ready, _, _ = select.select(sources, [], [], _POLL_S if self._told else None)
            if wake_read in ready:
                os.read(wake_read, 4096)
            if sys.stdin.fileno() in ready:
                self._obey(os.read(sys.stdin.fileno(), 16))
            self._collect()
            if self._killing:
                if left := kill_below(os.getpid()):
                    self._tell(left=left)
                break
        self._collect()  # what ended since the last look
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._command, os.WNOHANG)

    def _obey(self, orders: bytes) -> None:
        self._collect()  # what ended before it was told ended by itself
        self._told = True
        if KILL in orders or not orders:
            self._killing = True
        else:
            # a group at once, so that no fork escapes; what is stopped could not use its grace
            for number in (signal.SIGTERM, signal.SIGCONT):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._command, number)
                for pid, (_, _, group) in descendants(os.getpid()).items():
                    if group != self._command:
                        _kill(pid, number)

    def _collect(self) -> None:
        """Reap adopted children. The command itself stays a zombie: its pid, its group's, stays taken."""
        while not self._exited:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return
            if ended.si_pid == self._command:
                self._exited = True
                kind = "exit" if ended.si_code == os.CLD_EXITED else "signal"
                self._tell(**{kind: ended.si_status}, told=self._told)
            else:
                os.waitpid(ended.si_pid, 0)
        for pid, (state, parent, _) in descendants(os.getpid()).items():
            if state == "Z" and parent == os.getpid() and pid != self._command:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    def _nothing_lives(self) -> bool:
        return all(state in DEAD for state, _, _ in descendants(os.getpid()).values())

    def _tell(self, **what: Any) -> None:
        _tell(self._report, what)


def main() -> None:
    """Read the order, start the command, stay until nothing of it is left."""
    with open(int(sys.argv[1]), encoding="ascii") as order_file:  # noqa: PTH123  (an open file)
        order_file.seek(0)
        order = json.load(order_file)
    report, wake = order["report"], order["wake"]
    started_read, started_write = order["started"]  # exec closes it: its end without a word is success
    for descriptor in (report, *wake, started_read, started_write):
        os.set_inheritable(descriptor, False)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_PDEATHSIG, signal.SIGCONT)  # whoever was stopped has still to end what the worker leaves
    # A supervisor may signal every process there is: ending the command is the worker's business alone.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored ones leave nothing to wait for
    signal.pthread_sigmask(signal.SIG_SETMASK, ())

    go_read, go_write = os.pipe()
    guardian = os.getpid()
    command = os.fork()
    if command == 0:
        os.close(go_write)
        os.read(go_read, 1)  # what a command does at once, the worker knows of whom
        _become(order, started_write, guardian)
    os.close(started_write)
    _tell(report, {"pid": command})
    os.close(go_write)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # the worker reads the command's output to its end
    os.dup2(nowhere, 2)
    with open(started_read, "rb") as started:  # noqa: PTH123  (an open file)
        failure = started.read()
    if failure:
        os.write(report, failure)
        os.waitpid(command, 0)
        return
    _tell(report, {"started": True})
    Guardian(command, report, wake).watch()


def _become(order: dict[str, Any], failed: int, guardian: int) -> NoReturn:
    """Turn this process into the command."""
    os.setsid()
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guardian:  # it died before the line above took effect
        os._exit(NOT_STARTED)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _prefer_for_oom()
    # Python ignores some, nohup and shells ignore others, and the worker blocks the signals that stop it: a
    # command starts with none of that
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        if order["group"]:
            _join(order["group"])
        os.execvpe(order["argv"][0], order["argv"], order["env"])  # noqa: S606  (argv, never a shell)
    except FileNotFoundError:
        code, why = NOT_FOUND, "command not found"
    except (OSError, ValueError) as error:  # ValueError: a NUL byte, or "=" in the name of a variable
        code, why = NOT_STARTED, f"command cannot be started: {getattr(error, 'strerror', None) or error}"
    _tell(failed, {"why": why, "code": code})
    os._exit(code)


def _join(group: str) -> None:
    try:
        with open(group, "w", encoding="ascii") as file:  # noqa: PTH123  (without pathlib: see above)
            file.write("0")
    except OSError as error:
        raise ValueError(f"its memory cannot be limited ({error.strerror})") from None


def _prefer_for_oom() -> None:
    """When memory ends the command goes before the worker, which can tell what happened."""
    with contextlib.suppress(OSError, ValueError):
        score = int(_read("/proc/self/oom_score_adj"))
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:  # noqa: PTH123  (without pathlib: see above)
            file.write(str(min(1000, score + _OOM_SCORE_STEP)))


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123  (without pathlib: see above)
        return file.read()


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _tell(to: int, what: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the worker is gone
        os.write(to, json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    main()
