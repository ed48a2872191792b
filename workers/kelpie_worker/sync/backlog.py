"""How much of a job's data is not in the bucket yet."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from kelpie.job import UploadBacklog


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for its upload, or is being uploaded."""

    files: int = 0
    bytes: int = 0  # of the versions last seen; a file counts whole until its object is durable
    oldest: float | None = None  # when the oldest of these changes was noticed, monotonic s

    def to_tell(self) -> UploadBacklog:
        """The same for those who have another clock."""
        age_s = None if self.oldest is None else time.monotonic() - self.oldest
        return UploadBacklog(self.files, self.bytes, age_s)

    @classmethod
    def sum(cls, parts: Iterable[Self]) -> Backlog:
        """Several in one."""
        parts = list(parts)
        return Backlog(
            sum(part.files for part in parts),
            sum(part.bytes for part in parts),
            min((part.oldest for part in parts if part.oldest is not None), default=None),
        )
