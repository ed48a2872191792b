"""Room on the disks that jobs write to: no job begins without it."""

from __future__ import annotations

import contextlib
import shutil
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from kelpie_worker.sync.errors import SyncError

MiB = 1 << 20


class NoRoomError(SyncError):
    """What a job brings does not fit on the disks of this node as they are; ``never``: nor on empty ones."""

    def __init__(self, message: str, *, never: bool = False) -> None:
        super().__init__(message)
        self.never = never


def free_bytes(folder: Path) -> int | None:
    """What an ordinary process may still write below a folder, made or not; None when nobody can tell."""
    usage = _usage(folder)
    return None if usage is None else usage.free


def used_bytes(folders: Iterable[Path]) -> int:
    """What the files in these folders hold."""
    used = 0
    for folder in folders:
        for path in folder.rglob("*"):
            with contextlib.suppress(OSError):  # gone meanwhile
                used += 0 if path.is_dir() else path.lstat().st_size
    return used


def low_on_space(folders: Iterable[Path], needed_bytes: int, *, held_bytes: int = 0) -> str | None:
    """Which of these disks has less room than that, in words for people; None: none has.

    ``held_bytes`` count as room. A disk too small to have so much free ever (a container's /dev/shm) is asked
    nothing: it would be waited for without end.
    """
    wanted = needed_bytes - held_bytes
    for folder in folders:
        free = free_bytes(folder)
        if free is None or free >= wanted:
            continue
        usage = _usage(folder)
        if usage is not None and usage.total > needed_bytes:
            return f"{folder} has {free // MiB} MiB left, and {wanted // MiB} MiB are wanted"
    return None


def require_room(files: Iterable[tuple[Path, int]]) -> None:
    """Raises NoRoomError when files of these sizes (in bytes) cannot all be written, each disk for itself.

    A file that is there already with its size counts as written: it is most likely the same. Compressed ones
    count as they are stored, so more may be needed than is asked for here, never less.
    """
    by_folder: dict[Path, list[tuple[Path, int]]] = defaultdict(list)
    for path, size in files:
        by_folder[path.parent].append((path, size))
    by_disk: dict[int, list[Path]] = defaultdict(list)
    for folder in by_folder:
        by_disk[_disk_of(folder)].append(folder)
    for folders in by_disk.values():
        free = free_bytes(folders[0])
        planned = [each for folder in folders for each in by_folder[folder]]
        if free is None or sum(size for _, size in planned) <= free:
            continue
        needed = sum(size for path, size in planned if size != _size_of(path))
        if needed > free:
            usage = _usage(folders[0])
            raise NoRoomError(
                f"the job brings {_shown(needed)} to the disk of {folders[0]}, which has {_shown(free)} left",
                never=usage is not None and needed > usage.total,
            )


class _Usage(NamedTuple):
    total: int
    free: int


def _usage(folder: Path) -> _Usage | None:
    for place in (folder, *folder.parents):
        try:
            total, _, free = shutil.disk_usage(place)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return _Usage(total, free) if total else None  # some file systems of programs tell zeros
    return None


def _disk_of(folder: Path) -> int:
    for place in (folder, *folder.parents):
        try:
            return place.stat().st_dev
        except OSError:
            continue
    return 0


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _shown(size: int) -> str:
    return f"{size / MiB:,.1f} MiB"
