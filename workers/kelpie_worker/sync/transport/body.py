"""What is sent: bytes in memory, or a stretch of a file that is read, or sent by the kernel, on the way."""

from __future__ import annotations

import io
import mmap
import os
import threading
from collections.abc import Callable, Iterator

from kelpie_worker.sync.errors import SourceChanged, SyncError

try:
    from isal.isal_zlib import crc32 as crc32
except ImportError:  # there are machines without a wheel of it; this is slower, and right as well
    from zlib import crc32 as crc32

BLOCK = 256 * 1024
"""Bytes that are read, sent or received at once, between two looks at the gate."""

_local = threading.local()


def block_buffer() -> memoryview:
    """This thread's own buffer of one block.

    It is mapped, so that a thread which moves small files only takes no more memory than these need.
    """
    buffer: memoryview | None = getattr(_local, "buffer", None)
    if buffer is None:
        buffer = _local.buffer = memoryview(mmap.mmap(-1, BLOCK))
    return buffer


class Slice:
    """A stretch of an open file. Nothing is kept of it in memory.

    ``verify`` is asked before each block that is read or sent: it raises SourceChanged once the file is no
    longer the version that the checksum was made of.
    """

    def __init__(
        self, descriptor: int, start: int, length: int, verify: Callable[[], None] = lambda: None
    ) -> None:
        self.descriptor = descriptor
        self.start = start
        self.length = length
        self.verify = verify
        self._crc32: int | None = None

    def __len__(self) -> int:
        return self.length

    def blocks(self) -> Iterator[memoryview]:
        """Its bytes, block by block, in a buffer that is used again. SourceChanged when some are gone."""
        buffer, offset, left = block_buffer(), self.start, self.length
        while left:
            size = self.read_at(offset, buffer[: min(left, BLOCK)])
            yield buffer[:size]
            offset += size
            left -= size

    def crc32(self) -> int:
        """The CRC32 of its bytes; read once, since ``verify`` tells when they are no longer these."""
        if self._crc32 is None:
            value = 0
            for block in self.blocks():
                value = crc32(block, value)
            self._crc32 = value
        return self._crc32

    def read_at(self, offset: int, target: memoryview) -> int:
        """Read what is at ``offset`` of the file; returns how many bytes, at least one."""
        self.verify()
        try:
            size = os.preadv(self.descriptor, [target], offset)
        except OSError as error:
            raise SyncError(f"the file cannot be read: {error.strerror or error}") from None
        if not size:
            raise SourceChanged("the file became shorter while it was uploaded")
        return size


def crc32_of(data: bytes | Slice) -> int:
    """The CRC32 of what is to be sent."""
    return crc32(data) if isinstance(data, bytes) else data.crc32()


class Body(io.RawIOBase):
    """Bytes on their way up, as a file for boto3; each block asks first, so that an abandoned job stops."""

    def __init__(self, data: bytes | Slice, ask: Callable[[], None]) -> None:
        self.data = data
        self._ask = ask
        self._position = 0

    def __len__(self) -> int:
        return len(self.data)

    def ask(self) -> None:
        """Raise what forbids to send more of it."""
        self._ask()
        if isinstance(self.data, Slice):
            self.data.verify()

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes: a request may be sent again."""
        return True

    def readinto(self, target: bytearray | memoryview) -> int:  # type: ignore[override]  # what io hands over
        """The next bytes, if they may be sent; 0 at the end."""
        self._ask()
        view = memoryview(target)[: max(0, len(self.data) - self._position)]
        if not len(view):
            return 0
        if isinstance(self.data, Slice):
            size = self.data.read_at(self.data.start + self._position, view)
        else:
            size = len(view)
            view[:] = self.data[self._position : self._position + size]
        self._position += size
        return size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to another place."""
        self._position = (
            offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self)}[whence]
        )
        return self._position

    def tell(self) -> int:
        """Where it is."""
        return self._position
