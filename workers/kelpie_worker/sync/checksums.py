"""Whether a local file holds what an object holds."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kelpie_worker.sync.remote import RemoteHead, crc32_header
from kelpie_worker.sync.transport import crc32

_BLOCK = 1 << 20
_LARGEST_PART = 5 << 30  # bytes; S3's limit
_PLAIN = re.compile(r'"?([0-9a-f]{32})"?')
_COMPOSED = re.compile(r'"?[0-9a-f]{32}-[0-9]+"?')


def etag_of(path: Path, part_size: int | None, check: Callable[[], None]) -> str:
    """The ETag that S3 gives the file: the MD5, or the MD5 of the parts' MD5s, without quotes."""
    whole = hashlib.md5(usedforsecurity=False)
    parts: list[bytes] = []
    with path.open("rb") as file:
        while True:
            check()
            part = whole if part_size is None else hashlib.md5(usedforsecurity=False)
            left = part_size if part_size is not None else path.stat().st_size
            seen = False
            while left > 0 and (block := file.read(min(_BLOCK, left))):
                part.update(block)
                left -= len(block)
                seen = True
            if part_size is None:
                return whole.hexdigest()
            if not seen:
                break
            parts.append(part.digest())
    return f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"


def same_as_listed(path: Path, *, size: int, etag: str, part_size: int, check: Callable[[], None]) -> bool:
    """Whether the file surely holds the object of a listing; False when that cannot be told."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            return False
        if _PLAIN.fullmatch(etag):
            return etag_of(path, None, check) == etag.strip('"')
        return bool(_COMPOSED.fullmatch(etag)) and etag_of(path, part_size, check) == etag.strip('"')
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Received:
    """The CRC32s of a file's parts, made as they arrived."""

    part_size: int  # bytes of every part but the last
    crc32s: Sequence[int]


def mismatch(path: str, head: RemoteHead, received: Received, check: Callable[[], None]) -> str | None:
    """What differs between the file and its object; None when nothing does that can be compared.

    The file is read again only when what arrived was cut otherwise than the checksum's parts.
    """
    size = os.stat(path).st_size  # noqa: PTH116  (a plain string, for every file)
    if size != head.size:
        return f"{size} bytes arrived, the object has {head.size}"
    if stored := head.metadata.get("kelpie-crc32"):
        if f"{_whole(path, received, check):08x}" == stored:
            return None
        return "its CRC32 is not the one that was stored with it"
    part_size = head.metadata.get("kelpie-part-size", "")
    cut = int(part_size) if part_size.isdigit() and 0 < int(part_size) <= _LARGEST_PART else None
    told, _, parts = head.crc32.partition("-")
    if told and not parts:
        return _differs("CRC32", crc32_header(_whole(path, received, check)), told)
    if told and cut is not None:
        return _differs("CRC32", _composed(path, cut, received, check), head.crc32)
    if head.encrypted:  # such an ETag is no MD5
        return None
    if _PLAIN.fullmatch(head.etag):
        return _differs("MD5", etag_of(Path(path), None, check), head.etag.strip('"'))
    if _COMPOSED.fullmatch(head.etag) and cut is not None:
        return _differs("MD5", etag_of(Path(path), cut, check), head.etag.strip('"'))
    return None


def _differs(what: str, found: str, wanted: str) -> str | None:
    return None if found == wanted else f"its {what} is {found}, not {wanted}"


def _whole(path: str, received: Received, check: Callable[[], None]) -> int:
    if len(received.crc32s) == 1:
        return received.crc32s[0]
    return next(iter(_crc32s(path, None, check)), 0)


def _composed(path: str, part_size: int, received: Received, check: Callable[[], None]) -> str:
    """The CRC32 of the parts' CRC32s, as S3 writes it."""
    same = part_size == received.part_size
    parts = received.crc32s if same else list(_crc32s(path, part_size, check))
    return f"{crc32_header(crc32(b''.join(each.to_bytes(4, 'big') for each in parts)))}-{len(parts)}"


def _crc32s(path: str, part_size: int | None, check: Callable[[], None]) -> Iterator[int]:
    """The CRC32 of each part of the file; None: of the whole."""
    with Path(path).open("rb") as file:
        left = os.fstat(file.fileno()).st_size
        while left > 0:
            part = left if part_size is None else min(part_size, left)
            left -= part
            value = 0
            while part and (block := file.read(min(_BLOCK, part))):
                check()
                value = crc32(block, value)
                part -= len(block)
            yield value
