"""Children that this process never started: it gets them as pid 1 and by the death of a guardian."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from kelpie_worker import guardian

REAP_INTERVAL_S = 5.0

_own: set[int] = set()
_before: set[int] = set()  # what whoever became this process by exec has started: none of our business
_starting = threading.Lock()
_adopting = False


def adopt(interval_s: float = REAP_INTERVAL_S) -> None:
    """From now on orphans below this process become its children; they are reaped when they end.

    For a process that starts others by :class:`kelpie_worker.process.Command` only: it takes every other
    child for an orphan.
    """
    global _adopting  # noqa: PLW0603  (a fact about the process)
    me = os.getpid()
    with contextlib.suppress(OSError):  # no /proc: nothing can be found, or killed, later either
        _before.update(pid for pid, (_, parent, _) in guardian.descendants(me).items() if parent == me)
    guardian.prctl(guardian.PR_SET_CHILD_SUBREAPER, 1)
    _adopting = True

    def reap_for_ever() -> None:
        pause = threading.Event()
        while not pause.wait(interval_s):
            reap()

    threading.Thread(target=reap_for_ever, name="reaper", daemon=True).start()


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Around the start of a child, until it is :func:`own`."""
    with _starting:
        yield


def own(pid: int) -> None:
    """This child was started here, and is waited for."""
    _own.add(pid)


def disown(pid: int) -> None:
    """The reverse of :func:`own`, once it was waited for."""
    _own.discard(pid)


def reap() -> None:
    """Take orphans that have ended out of the process table."""
    with _starting:
        me = os.getpid()
        for pid, (state, parent, _) in guardian.descendants(me).items():
            if state == "Z" and parent == me and pid not in _own:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
                _before.discard(pid)


def kill() -> None:
    """SIGKILL every orphan and what is below it: what a guardian that was killed has left."""
    if _adopting:
        with _starting:  # a child that starts meanwhile would be taken for an orphan
            guardian.kill_below(os.getpid(), spared=frozenset(_own | _before))
        reap()
