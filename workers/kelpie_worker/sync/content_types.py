"""What kind of content an object holds, by the ending of its key."""

from __future__ import annotations

import mimetypes
import os

UNKNOWN = "application/octet-stream"

_PACKED = {".gz": "application/gzip", ".bz2": "application/x-bzip2", ".xz": "application/x-xz"}
_TYPES = mimetypes.MimeTypes().types_map[True]  # Python's own table: the machine's files change nothing


def content_type(key: str) -> str:
    """The media type for the header of that name; a packed file is what it is packed as."""
    ending = os.path.splitext(key)[1].lower()  # noqa: PTH122  (a key is no path)
    return _PACKED.get(ending) or _TYPES.get(ending, UNKNOWN)
