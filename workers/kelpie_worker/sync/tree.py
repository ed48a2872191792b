"""Reading and writing inside one folder, and never outside it, whatever its symlinks and keys say."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import structlog

from kelpie_worker.sync.errors import SyncError
from kelpie_worker.sync.folders import HIDDEN_PREFIX

log = structlog.get_logger(__name__)

MAX_NAME_BYTES = 255


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


@dataclass(frozen=True, slots=True)
class Tree:
    """A folder of a job. ``written_as``: the path that the command knew it by, when it has been moved."""

    root: Path
    written_as: Path | None = None

    # ---- reading

    def files(self, below: str = "", *, strict: bool = False) -> Iterator[tuple[str, Snapshot]]:
        """Every regular file (path relative to the folder, version), in no order.

        Symlinks are followed only to places inside the folder; pipes, sockets and devices are passed over,
        and so is what vanishes meanwhile. ``strict``: what cannot be read, or leads out of the folder, raises
        SyncError rather than being passed over.
        """
        start = self.root / below if below else self.root
        if below and self._inside(start) is None:
            return
        if not below and (start.is_symlink() or not start.is_dir()):
            return
        pending: list[tuple[str, str, frozenset[str]]] = [
            (below, str(start), frozenset({os.path.realpath(start)}))
        ]
        while pending:
            relative, place, above = pending.pop()
            try:
                with os.scandir(place) as entries:
                    children = list(entries)
            except OSError as error:
                if strict:
                    raise SyncError(f"{place} cannot be read: {error.strerror}") from None
                continue
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
                            log.warning("symlink leads out of its folder: not uploaded", path=child.path)
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

    def snapshot(self, name: str) -> Snapshot | None:
        """The version of the file that is there now; None when there is none that may be uploaded.

        OSError when that cannot be told: a file that cannot be read has not vanished.
        """
        if any(part.startswith(HIDDEN_PREFIX) for part in name.split("/")):
            return None
        inside = self._inside(self.root / name)
        try:
            status = None if inside is None else inside.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Snapshot.of(status) if status is not None and stat.S_ISREG(status.st_mode) else None

    def open(self, name: str) -> int:
        """A descriptor for reading the regular file; FileNotFoundError when there is none inside the folder.

        What was opened is looked at again, so that a path swapped for a symlink meanwhile gains nothing.
        """
        inside = self._inside(self.root / name)
        if inside is None:
            raise FileNotFoundError(f"{self.root / name} is not a file inside its folder")
        # O_NONBLOCK: opening a pipe must not hang
        descriptor = os.open(inside, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        opened = Path(f"/proc/self/fd/{descriptor}").readlink()
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or not opened.is_relative_to(self._real_root()):
            os.close(descriptor)
            raise FileNotFoundError(f"{self.root / name} is not a file inside its folder")
        return descriptor

    def _real_root(self) -> Path:
        return self.root.parent.resolve() / self.root.name

    def _inside(self, path: Path) -> Path | None:
        """Where ``path`` really is, if that is inside the folder."""
        try:
            if path.is_symlink() and self.written_as is not None:
                target = path.readlink()
                if target.is_relative_to(self.written_as):  # an absolute link into the folder, which moved
                    path = self.root / target.relative_to(self.written_as)
            real = path.resolve(strict=True)
        except (FileNotFoundError, NotADirectoryError, RuntimeError):
            return None
        return real if real.is_relative_to(self._real_root()) else None

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
