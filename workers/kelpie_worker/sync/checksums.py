"""Whether a local file holds what an object holds."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable
from pathlib import Path

from kelpie_worker.sync.store import RemoteHead

_BLOCK = 1 << 20
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
        if path.is_symlink() or not path.is_file() or path.stat().st_size != size:
            return False
        if _PLAIN.fullmatch(etag):
            return etag_of(path, None, check) == etag.strip('"')
        return bool(_COMPOSED.fullmatch(etag)) and etag_of(path, part_size, check) == etag.strip('"')
    except OSError:
        return False


def mismatch(path: Path, head: RemoteHead, check: Callable[[], None]) -> str | None:
    """What differs between the file and its object; None when nothing does that can be compared."""
    size = path.stat().st_size
    if size != head.size:
        return f"{size} bytes arrived, the object has {head.size}"
    if stored := head.metadata.get("kelpie-crc32"):
        return (
            None
            if f"{_crc32(path, check):08x}" == stored
            else "its CRC32 is not the one that was stored with it"
        )
    if head.encrypted:  # such an ETag is no MD5
        return None
    part_size = head.metadata.get("kelpie-part-size", "")
    if _PLAIN.fullmatch(head.etag):
        found = etag_of(path, None, check)
    elif _COMPOSED.fullmatch(head.etag) and part_size.isdigit() and int(part_size) > 0:
        found = etag_of(path, int(part_size), check)
    else:
        return None
    return None if found == head.etag.strip('"') else f"its MD5 gives the ETag {found}, not {head.etag}"


def _crc32(path: Path, check: Callable[[], None]) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            check()
            value = zlib.crc32(block, value)
    return value
