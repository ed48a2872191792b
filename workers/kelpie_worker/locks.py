"""Locks among the processes of one machine: a file that the holder keeps open, with his pid in it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path


def try_lock(file: Path) -> int | None:
    """An open file that holds the lock until it is closed, or this process ends; None: another one has it.

    OSError.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    with contextlib.suppress(OSError):  # a full disk: the lock holds without a name
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def holder(file: Path) -> int | None:
    """The pid of whoever has the lock; None when nobody can tell. Only for people to read."""
    with contextlib.suppress(OSError, ValueError):
        return int(file.read_bytes()[:20]) or None
    return None
