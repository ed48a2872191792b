"""Everything that descends from this process, also what lost its parent. Linux only.

A process that calls :func:`adopt_orphans` becomes the parent of every descendant whose own parent died,
daemons included: none can leave the tree, so :func:`kill_descendants` leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_KILL_TIMEOUT_S = 10.0


def adopt_orphans() -> None:
    """Make this process the parent of its orphaned descendants from now on."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def children(pid: int) -> list[int]:
    """The direct children of a process, zombies included."""
    return _children_by_parent().get(pid, [])


def descendants(pid: int) -> list[int]:
    """Children, their children, and so on."""
    by_parent = _children_by_parent()
    found: list[int] = []
    todo = [pid]
    while todo:
        below = by_parent.get(todo.pop(), [])
        found += below
        todo += below
    return found


def kill_descendants() -> None:
    """SIGKILL everything below this process and reap it, until nothing is left. Never blocks for long.

    Repeatedly, because a process may fork between being listed and being killed.
    """
    _kill_until_gone(lambda: descendants(os.getpid()))


def kill_orphans(marker: str, known: Collection[int]) -> None:
    """SIGKILL the adopted children (not in ``known``) that carry ``marker``, and all below them.

    ``marker`` is ``NAME=value`` in the environment that they were started with.
    """

    def stray() -> list[int]:
        roots = [pid for pid in children(os.getpid()) if pid not in known and _carries(pid, marker)]
        return [*roots, *(below for root in roots for below in descendants(root))]

    _kill_until_gone(stray)


def reap(known: Collection[int] = ()) -> None:
    """Collect the exit status of every dead child that is not in ``known``: adopted ones nobody waits for."""
    for pid in children(os.getpid()):
        if pid not in known:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _kill_until_gone(doomed: Callable[[], list[int]]) -> None:
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    dying: set[int] = set()
    while time.monotonic() < deadline:
        found = doomed()
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        dying = {pid for pid in dying.union(found) if _unreaped(pid)}
        if not found and not dying:
            return
        time.sleep(0.01)


def _unreaped(pid: int) -> bool:
    """Whether this is a child of ours that has not ended yet; one that has is reaped."""
    try:
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    except ChildProcessError:  # reaped already, or a grandchild: that is found again until it is gone
        return False


def _children_by_parent() -> dict[int, list[int]]:
    by_parent: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # gone meanwhile
                # "pid (name) state ppid …", and the name may hold spaces and parentheses
                parent = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
                by_parent.setdefault(parent, []).append(int(entry.name))
    return by_parent


def _carries(pid: int, marker: str) -> bool:
    try:
        return marker.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
