"""Becomes another program that dies with the process that started it. Linux only, standard library only.

``python -I -S launcher.py PARENT_PID PROGRAM ARG…``

The kernel sends the parent-death signal when the *thread* that forked this process ends, so start it from
a thread that lives as long as the process: the main thread. A program of its own instead of ``preexec_fn``,
which is not safe in a process with threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Ask for SIGKILL at the parent's death, then become ``argv[1:]``."""
    parent = int(argv[0])
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        os.execvp(argv[1], argv[1:])  # noqa: S606 -- this is the point: the program becomes this process
    except OSError as error:
        sys.stderr.write(f"cannot run {argv[1]}: {error.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
