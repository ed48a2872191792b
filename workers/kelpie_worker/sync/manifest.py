"""What a folder and a prefix had in common after the last copy, so that the next one moves only the changes.

A file of the user's own cache, never in the folder itself. It is only ever a reason to look less closely, so
a damaged one, or one of another folder, counts as none. A file changed within the clock tick in which it was
copied is not written down, since its times cannot tell.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import structlog

if TYPE_CHECKING:
    from kelpie_worker.sync.download import PlannedFile
    from kelpie_worker.sync.tree import Snapshot

log = structlog.get_logger(__name__)

VERSION = 1
MAX_BYTES = 1 << 30
"""A larger file is not read: it is none of ours."""


class Manifest:
    """key → ETag, size; local size, mtime, inode, as they were when the two were equal."""

    def __init__(self, path: Path | None, heading: dict[str, Any], entries: dict[str, list[Any]]) -> None:
        self._path = path
        self._heading = heading
        self._entries = entries
        self._changed = False

    @classmethod
    def load(
        cls, home: Path | None, folder: Path, endpoint: Callable[[], str], bucket: str, prefix: str
    ) -> Self:
        """That of the folder and the prefix; empty when there is none or it cannot be trusted. ``home`` None
        keeps none."""
        if home is None:
            return cls(None, {}, {})
        heading = {
            "version": VERSION,
            "folder": str(folder),
            "device": folder.stat().st_dev,
            "endpoint": endpoint(),
            "bucket": bucket,
            "prefix": prefix,
        }
        name = hashlib.sha256(json.dumps(heading).encode()).hexdigest()[:32]
        path = home / f"{name}.json"
        entries: dict[str, list[Any]] = {}
        try:
            entries = _read(path, heading)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, RecursionError) as error:
            log.info("what was copied before is not known", path=str(path), why=str(error))
        return cls(path, heading, entries)

    @property
    def known(self) -> bool:
        """Whether anything is written down."""
        return bool(self._entries)

    def holds(self, key: str, etag: str, size: int, local: Snapshot) -> bool:
        """Whether object and file are both what they were when they were equal."""
        return self._entries.get(key) == [etag, size, local.size, local.mtime_ns, local.inode]

    def in_place(self, file: PlannedFile) -> bool:
        """Whether what is to be fetched is there, unchanged on both sides."""
        try:
            status = os.lstat(file.target)
        except OSError:
            return False
        remote = file.remote
        local = [status.st_size, status.st_mtime_ns, status.st_ino]
        return stat.S_ISREG(status.st_mode) and self._entries.get(remote.key) == [
            remote.etag,
            remote.size,
            *local,
        ]

    def record(self, key: str, etag: str, size: int, local: Snapshot) -> None:
        """They are equal now. Safe from any thread."""
        if self._path is None:
            return
        self._changed = True
        if local.ambiguous_s():
            self._entries.pop(key, None)
        else:
            self._entries[key] = [etag, size, local.size, local.mtime_ns, local.inode]

    def save(self) -> None:
        """Write it down, for its owner alone; a failure costs only time at the next copy."""
        if self._path is None or not self._changed:
            return
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, draft = tempfile.mkstemp(dir=self._path.parent)
            try:
                with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 -- a descriptor
                    json.dump({"heading": self._heading, "entries": dict(self._entries)}, file)
                os.replace(draft, self._path)  # noqa: PTH105  (the atomic one, by its name)
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(draft).unlink()
                raise
        except (OSError, ValueError) as error:
            log.info("what was copied cannot be written down", path=str(self._path), why=str(error))


def _read(path: Path, heading: dict[str, Any]) -> dict[str, list[Any]]:
    """The entries of a manifest; ValueError says why it is not trusted."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123 -- a descriptor
        status = os.fstat(descriptor)
        shared = status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if shared or not stat.S_ISREG(status.st_mode):
            raise ValueError("others may write to it")
        if status.st_size > MAX_BYTES:
            raise ValueError(f"it has {status.st_size} bytes")
        found = json.load(file)
    if (
        not isinstance(found, dict)
        or found.get("heading") != heading
        or not isinstance(entries := found.get("entries"), dict)
    ):
        raise ValueError("it is damaged or of another folder")
    return entries
