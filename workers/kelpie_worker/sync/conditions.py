"""Conditional writes: what a request expects of an object, and which buckets keep to it."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import structlog

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Condition:
    """What must be true of the object for a write to happen."""

    etag: str | None
    """The ETag that it has; None: there is no object."""

    @property
    def arguments(self) -> dict[str, str]:
        """The condition as boto3 takes it."""
        return {"IfNoneMatch": "*"} if self.etag is None else {"IfMatch": self.etag}

    @property
    def headers(self) -> dict[str, str]:
        """The condition as it is sent."""
        return {"If-None-Match": "*"} if self.etag is None else {"If-Match": self.etag}


class Conditions:
    """What this process knows of each bucket: whether its store refuses a write whose condition fails.

    A store that answers "not implemented", and one that takes the header and writes all the same, are found
    out once per bucket; from then on its writes go without conditions. Safe from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, bool] = {}
        self._probed: set[str] = set()

    def wanted(self, bucket: str) -> bool:
        """Whether writes to the bucket go with a condition: until it is known to be in vain."""
        return self._kept.get(bucket, True)

    def known(self, bucket: str) -> bool:
        """Whether it is known what the bucket's store does."""
        return bucket in self._kept

    def claim_probe(self, bucket: str) -> bool:
        """True for one caller per bucket, who is to find out."""
        with self._lock:
            if bucket in self._kept or bucket in self._probed:
                return False
            self._probed.add(bucket)
            return True

    def keeps(self, bucket: str) -> None:
        """A write was refused because its condition failed."""
        self._kept.setdefault(bucket, True)

    def lacks(self, bucket: str, how: str) -> None:
        """Conditions are in vain here."""
        with self._lock:
            told = self._kept.get(bucket) is False
            self._kept[bucket] = False
        if not told:
            log.warning(
                "this storage has no conditional writes: only the lease keeps late writes from it",
                bucket=bucket,
                how=how,
            )
