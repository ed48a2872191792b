"""Every object that an attempt has stored: what must be in the bucket before the job is completed."""

from __future__ import annotations

import threading

from kelpie_worker.sync.upload import Uploaded


class Ledger:
    """The objects of one attempt, as the store acknowledged them. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # tuples, because there may be very many: a set takes as much as everything else of an object
        self._objects: dict[tuple[str, str], tuple[tuple[int, str], ...]] = {}

    def record(self, uploaded: Uploaded) -> None:
        """The object is durable. Of two entries that share a key, either version is right."""
        with self._lock:
            versions = self._objects.get((uploaded.bucket, uploaded.key), ())
            version = (uploaded.size, uploaded.etag)
            if version not in versions:
                self._objects[uploaded.bucket, uploaded.key] = (*versions, version)

    def forget(self, bucket: str, key: str) -> None:
        """The object was deleted, as its file was."""
        with self._lock:
            self._objects.pop((bucket, key), None)

    def objects(self) -> list[tuple[str, str, frozenset[tuple[int, str]]]]:
        """(bucket, key, possible (size, ETag)) of every object that must be there."""
        with self._lock:
            return [(bucket, key, frozenset(versions)) for (bucket, key), versions in self._objects.items()]
