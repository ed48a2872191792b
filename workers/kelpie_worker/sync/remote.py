"""What an S3-compatible storage says of objects and parts, and how it writes checksums."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One object of a listing."""

    key: str
    size: int  # bytes
    etag: str
    modified: datetime


@dataclass(frozen=True, slots=True)
class RemoteHead:
    """What a store says of one object."""

    size: int  # bytes of the whole object
    etag: str
    metadata: Mapping[str, str]
    crc32: str  # as the store's header writes it, "-N" behind that of N parts; empty when it told none
    encrypted: bool  # by the store, in a way that may make the ETag something else than an MD5


@dataclass(frozen=True, slots=True)
class Part:
    """One part that the store has."""

    number: int
    etag: str
    checksum: str


def crc32_header(value: int) -> str:
    """A CRC32 as S3's headers write it."""
    return base64.b64encode(value.to_bytes(4, "big")).decode()


def remote_head(answer: Any) -> RemoteHead:
    """Out of an answer to ``head_object`` or ``get_object``."""
    whole = answer.get("ContentRange", "").rpartition("/")[2]
    return RemoteHead(
        size=int(whole) if whole.isdigit() else answer["ContentLength"],
        etag=answer["ETag"],
        metadata=answer.get("Metadata", {}),
        crc32=answer.get("ChecksumCRC32", ""),
        encrypted=answer.get("ServerSideEncryption", "AES256") != "AES256"
        or "SSECustomerAlgorithm" in answer,
    )
