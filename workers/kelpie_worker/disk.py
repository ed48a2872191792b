"""Room on the disks that jobs write to: no job begins without it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable
from pathlib import Path

MiB = 1 << 20


def free_bytes(folder: Path) -> int | None:
    """What an ordinary process may still write below a folder, made or not; None when nobody can tell."""
    for place in (folder, *folder.parents):
        try:
            return shutil.disk_usage(place).free
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None


def used_bytes(folders: Iterable[Path]) -> int:
    """What the files in these folders hold."""
    used = 0
    for folder in folders:
        for path in folder.rglob("*"):
            with contextlib.suppress(OSError):  # gone meanwhile
                used += 0 if path.is_dir() else path.lstat().st_size
    return used


def low_on_space(folders: Iterable[Path], needed_bytes: int) -> str | None:
    """Which of these disks has less room than that, in words for people; None: none has."""
    for folder in folders:
        free = free_bytes(folder)
        if free is not None and free < needed_bytes:
            return f"{folder} has {free // MiB} MiB left, and {needed_bytes // MiB} MiB are wanted"
    return None
