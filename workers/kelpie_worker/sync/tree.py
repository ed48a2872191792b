"""Reading and writing inside one folder, and never outside it, whatever its symlinks and keys say."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import structlog

from kelpie_worker.sync.errors import SyncError
from kelpie_worker.sync.folders import HIDDEN_PREFIX

log = structlog.get_logger(__name__)

MAX_NAME_BYTES = 255
MAX_TOLD = 1000
"""Names passed over that a folder's log lines tell of."""

_COARSE_CLOCK = 5  # CLOCK_REALTIME_COARSE, which Python does not name
_TICK_S = time.clock_getres(_COARSE_CLOCK)
_MARGIN_S = 0.0002  # so that one pause is enough
_WHOLE_SECOND = 1_000_000_000  # ns


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What tells one version of a file from another."""

    size: int  # bytes
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """The version that ``status`` describes."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)

    def ambiguous_s(self) -> float:
        """Seconds until no further change of the file can look like this one; 0 when none can any more.

        The kernel stamps files with a clock that moves once a tick (4 ms as a rule): two changes within one
        may leave the same modification time.
        """
        now_ns = time.clock_gettime_ns(_COARSE_CLOCK)
        if self.mtime_ns % _WHOLE_SECOND == 0:  # a file system that keeps no fractions: FAT has even seconds
            left_ns = self.mtime_ns + 2 * _WHOLE_SECOND - now_ns
            return left_ns / 1e9 if 0 < left_ns <= 2 * _WHOLE_SECOND else 0.0
        if not now_ns <= self.mtime_ns < now_ns + _WHOLE_SECOND:  # past; or set to a future that never comes
            return 0.0
        return max(now_ns / 1e9 + _TICK_S - time.time(), 0.0) + _MARGIN_S


@dataclass(frozen=True, slots=True)
class Tree:
    """A folder of a job. ``written_as``: the path that the command knew it by, when it has been moved."""

    root: Path
    written_as: Path | None = None
    _told: set[str] = field(default_factory=set, compare=False, repr=False)

    # ---- reading

    def files(
        self, below: str = "", *, strict: bool = False, folders: set[str] | None = None
    ) -> Iterator[tuple[str, Snapshot]]:
        """Every regular file (path relative to the folder, version), in no order.

        Symlinks are followed only to places inside the folder; pipes, sockets and devices are passed over,
        and so is what vanishes meanwhile. ``strict``: what cannot be read, or leads out of the folder, raises
        SyncError rather than being passed over. ``folders`` collects the real folders on the way.
        """
        start = self.root / below if below else self.root
        if below and self._inside(start) is None:
            return
        if not below and (start.is_symlink() or not start.is_dir()):
            return
        folders_above = (self.root, *start.parents[: below.count("/")]) if below else ()
        outer = frozenset(map(os.path.realpath, folders_above))
        if os.path.realpath(start) in outer:  # a symlink to a folder above
            return
        pending: list[tuple[str, str, frozenset[str]]] = [
            (below, str(start), outer | {os.path.realpath(start)})
        ]
        while pending:
            relative, place, above = pending.pop()
            try:
                with os.scandir(place) as entries:
                    children = list(entries)
            except OSError as error:
                if strict:
                    raise SyncError(f"{place} cannot be read: {error.strerror}") from None
                if not isinstance(error, FileNotFoundError):
                    self._tell(place, f"cannot be read: {error.strerror}")
                continue
            if folders is not None:
                folders.add(place)
            for child in children:
                if child.name.startswith(HIDDEN_PREFIX):
                    continue
                name = f"{relative}/{child.name}" if relative else child.name
                try:
                    path: str = child.path
                    if child.is_symlink():
                        inside = self._inside(Path(child.path))
                        if inside is None:
                            if strict and os.path.exists(child.path):  # noqa: PTH110  (a plain string)
                                raise SyncError(f"the symlink {child.path} leads out of its folder")
                            self._tell(child.path, "a symlink that leads out of its folder")
                            continue
                        path = str(inside)
                        status = inside.stat()
                    else:
                        status = child.stat(follow_symlinks=False)
                except FileNotFoundError:  # vanished, or a symlink that leads nowhere
                    continue
                except OSError as error:
                    if strict:
                        raise SyncError(f"{child.path} cannot be read: {error.strerror}") from None
                    continue
                if stat.S_ISREG(status.st_mode):
                    yield name, Snapshot.of(status)
                elif stat.S_ISDIR(status.st_mode):
                    real = os.path.realpath(path)
                    if real not in above:  # a symlink to a folder above would never end
                        pending.append((name, path, above | {real}))
                else:
                    self._tell(child.path, "a pipe, a socket or a device")

    def snapshot(self, name: str) -> Snapshot | None:
        """The version of the file that is there now; None when there is none that may be uploaded.

        OSError when that cannot be told: a file that cannot be read has not vanished.
        """
        if HIDDEN_PREFIX in name and any(part.startswith(HIDDEN_PREFIX) for part in name.split("/")):
            return None
        reached = self._reach(name)
        if reached is None:
            return None
        try:
            status = os.fstat(reached)
        finally:
            os.close(reached)
        return Snapshot.of(status) if stat.S_ISREG(status.st_mode) else None

    def open(self, name: str) -> int:
        """A descriptor for reading the regular file; FileNotFoundError when none is inside the folder."""
        reached = self._reach(name)
        try:
            if reached is None or not stat.S_ISREG(os.fstat(reached).st_mode):
                raise FileNotFoundError(f"{self.root / name} is not a file inside its folder")
            # What was looked at is what is opened, whatever the path leads to by now.
            return os.open(f"/proc/self/fd/{reached}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        finally:
            if reached is not None:
                os.close(reached)

    def _reach(self, name: str) -> int | None:
        """A descriptor of what the path leads to, good for looking only: no pipe hangs.

        None when that is not inside the folder. The kernel says where it is, so that a path swapped for a
        symlink meanwhile gains nothing.
        """
        path = f"{self.root}/{name}"
        if self.written_as is not None:
            path = str(self._rebased(Path(path)))
        try:
            folder = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            root = os.readlink(f"/proc/self/fd/{folder}")  # noqa: PTH115  (for every look)
        finally:
            os.close(folder)
        try:
            reached = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                return None
            raise
        if os.readlink(f"/proc/self/fd/{reached}").startswith(root.rstrip("/") + "/"):  # noqa: PTH115  (a plain string, for every file)
            return reached
        os.close(reached)
        return None

    def _real_root(self) -> Path:
        return self.root.parent.resolve() / self.root.name

    def _inside(self, path: Path) -> Path | None:
        """Where ``path`` really is, if that is inside the folder."""
        try:
            real = self._rebased(path).resolve(strict=True)
        except (FileNotFoundError, NotADirectoryError, RuntimeError):
            return None
        return real if real.is_relative_to(self._real_root()) else None

    def _rebased(self, path: Path) -> Path:
        """An absolute link into the folder, written before the folder moved, still leads into it."""
        if self.written_as is not None and path.is_symlink():
            target = path.readlink()
            if target.is_relative_to(self.written_as):
                return self.root / target.relative_to(self.written_as)
        return path

    def _tell(self, path: str, why: str) -> None:
        """Say once, of a folder that is scanned again and again, what is not uploaded."""
        if path not in self._told and len(self._told) < MAX_TOLD:
            self._told.add(path)
            log.warning("not uploaded", path=path, reason=why)

    # ---- writing

    def place(self, name: str, *, key: str) -> Path:
        """Where the object ``key`` belongs, its folders made; SyncError when that is not inside this one."""
        *folders, last = self._checked(name, key)
        parent = self._make(folders, key)
        if (parent / last).is_dir() and not (parent / last).is_symlink():
            raise SyncError(f"the object {key!r} cannot be stored: {parent / last} is a folder")
        return parent / last

    def place_beside(self, folder: Path, name: str, *, key: str) -> Path:
        """Where the object ``key`` belongs, whose folder :meth:`place` has just made."""
        self._checked(name, key)
        target = folder / name
        if target.is_dir() and not target.is_symlink():
            raise SyncError(f"the object {key!r} cannot be stored: {target} is a folder")
        return target

    def make_folder(self, name: str, *, key: str) -> None:
        """Make the folder that the marker object ``key`` stands for."""
        self._make(self._checked(name.rstrip("/"), key), key)

    def _checked(self, name: str, key: str) -> list[str]:
        parts = name.split("/")
        for part in parts:
            if part in {"", ".", ".."} or "\0" in part:
                raise SyncError(
                    f"the object {key!r} is refused: its key is no path inside the folder {self.root}"
                )
            if len(os.fsencode(part)) > MAX_NAME_BYTES:
                raise SyncError(
                    f"the object {key!r} is refused: a part of its name is over {MAX_NAME_BYTES} bytes long"
                )
        return parts

    def _make(self, folders: list[str], key: str) -> Path:
        root = self._real_root()
        place = root
        for part in folders:
            place = place / part
            try:
                place.mkdir(exist_ok=True)
                place = place.resolve(strict=True)
            except (OSError, RuntimeError) as error:
                raise SyncError(f"the object {key!r} cannot be stored: {place}: {error}") from None
            if not place.is_relative_to(root):
                raise SyncError(f"the object {key!r} is refused: a symlink leads it out of {root}")
        return place
