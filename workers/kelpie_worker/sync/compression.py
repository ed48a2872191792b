"""gzip with bounded memory, and with a limit on what comes out of it."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

from kelpie_worker.sync.errors import SyncError

SUFFIX = ".gz"
BLOCK = 8 << 20  # bytes read at a time while compressing
LEVEL = 6  # zlib's own compromise
MAX_RATIO = 200
"""How often its own size an object of unknown origin may inflate to (DEFLATE reaches 1032)."""
UNQUESTIONED_SIZE = 64 << 20  # bytes that any object may inflate to
_GZIP = 31  # zlib's window bits for the gzip format
_STEP = 1 << 20  # bytes that come out at a time


class Compressor:
    """Compresses a descriptor into a file, block by block, so that the caller can yield in between."""

    def __init__(self, source: int, target: IO[bytes]) -> None:
        self._source = source
        self._target = target
        self._zip = zlib.compressobj(LEVEL, zlib.DEFLATED, _GZIP)
        self._offset = 0
        self.ended = False

    def step(self) -> None:
        """Compress the next block; ``ended`` tells when there are no more."""
        block = os.pread(self._source, BLOCK, self._offset)
        self._offset += len(block)
        self._target.write(self._zip.compress(block) if block else self._zip.flush())
        self.ended = not block


def gunzip(
    source: Path, target: int, *, declared_size: int | None, key: str, check: Callable[[], None]
) -> None:
    """Decompress a file into a descriptor; SyncError when it is damaged or inflates beyond its limit.

    ``declared_size`` is the size that the uploader wrote beside the object: exactly so much may come out.
    Without it the limit is 200 times the object's size (64 MiB always being fine). Disk space is looked at on
    the way, so that an object cannot fill the disk whatever it declares. ``check`` is called between blocks.
    """
    limit = declared_size
    if limit is None:
        limit = max(UNQUESTIONED_SIZE, MAX_RATIO * source.stat().st_size)
    written = 0
    unzip = zlib.decompressobj(_GZIP)
    try:
        with source.open("rb") as compressed:
            while block := compressed.read(_STEP):
                check()
                while block:
                    if unzip.eof:  # gzip members may follow one another
                        unzip = zlib.decompressobj(_GZIP)
                    piece = unzip.decompress(block, _STEP)
                    block = unzip.unused_data if unzip.eof else unzip.unconsumed_tail
                    written += len(piece)
                    if written > limit:
                        raise SyncError(
                            f"the object {key!r} inflates to more than the {limit} bytes allowed for it"
                        )
                    _keep_room(target, len(piece), key)
                    _write(target, piece)
    except zlib.error as error:
        raise SyncError(f"the object {key!r} is no valid gzip file: {error}") from None
    if not unzip.eof and source.stat().st_size:
        raise SyncError(f"the object {key!r} is a gzip file that was cut short")
    if declared_size is not None and written != declared_size:
        raise SyncError(f"the object {key!r} inflates to {written} bytes; {declared_size} were declared")


def _keep_room(target: int, needed: int, key: str) -> None:
    room = os.fstatvfs(target)
    if room.f_bavail * room.f_frsize < needed:
        raise SyncError(f"the object {key!r} cannot be decompressed: the disk is full")


def _write(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]
