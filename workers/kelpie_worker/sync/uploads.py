"""Multipart uploads that have begun: continued after a failure, aborted when they are of no use.

A store keeps, and charges for, the parts of an upload until it is completed or aborted. So the ids of those
under way are on disk: a worker that was killed over one aborts it at its next start. It does not continue it:
the job goes to its next attempt, whose number the object must carry, and the folders of the last one are
emptied. Uploads of other attempts are never looked for in the bucket, where nothing tells whose they are.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from kelpie_worker import notes
from kelpie_worker.sync.errors import OutOfReach, SyncError, UploadGone
from kelpie_worker.sync.remote import Part
from kelpie_worker.sync.store import Store
from kelpie_worker.sync.tree import Snapshot

log = structlog.get_logger(__name__)

MAX_JOURNAL_CHARS = 8 << 20


class UploadJournal:
    """A small JSON file: the id of every multipart upload under way → its bucket and key.

    ``path`` None keeps nothing. Safe from any thread. A journal that cannot be written stops no upload.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._open: dict[str, tuple[str, str]] = {}

    def begin(self, bucket: str, key: str, upload_id: str) -> None:
        """The upload has begun."""
        with self._lock:
            self._open[upload_id] = (bucket, key)
            self._write()

    def end(self, upload_id: str) -> None:
        """The upload was completed or aborted."""
        with self._lock:
            if self._open.pop(upload_id, None) is not None:
                self._write()

    def load(self) -> list[tuple[str, str, str]]:
        """(bucket, key, upload id) of what an earlier worker left; each stays until `end` is told of it."""
        if self._path is None:
            return []
        try:
            notes.discard_draft(self._path)
            if not self._path.exists():
                return []
            with self._path.open() as file:
                kept = json.loads(file.read(MAX_JOURNAL_CHARS))  # what is longer is not ours, and no JSON now
            left = {str(upload_id): (str(bucket), str(key)) for upload_id, (bucket, key) in kept.items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            log.warning("the upload journal cannot be read", path=str(self._path), error=str(error))
            return []
        with self._lock:
            self._open = left | self._open
        return [(bucket, key, upload_id) for upload_id, (bucket, key) in left.items()]

    def _write(self) -> None:
        if self._path is None:
            return
        try:
            notes.write(self._path, self._open)
        except (
            OSError
        ) as error:  # a restarted worker would leave the parts of an upload to the store's own rules
            log.warning("the upload journal cannot be written", path=str(self._path), error=str(error))


@dataclass(slots=True)
class OpenUpload:
    """A multipart upload under way, and the version of the file that it holds parts of."""

    bucket: str
    key: str
    upload_id: str
    source: Snapshot
    metadata: Mapping[str, str]
    done: dict[int, Part] = field(default_factory=dict)  # parts that the store acknowledged


class Uploads:
    """The multipart uploads of one attempt. Safe from any thread."""

    def __init__(self, store: Store, journal: UploadJournal) -> None:
        self._store = store
        self._journal = journal
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str], OpenUpload] = {}

    def open(self, bucket: str, key: str, source: Snapshot, metadata: Mapping[str, str]) -> OpenUpload:
        """The upload of this version that was kept, with the parts that the store has; else a new one."""
        with self._lock:
            kept = self._kept.pop((bucket, key), None)
        if kept is not None:
            if kept.source == source and kept.metadata == metadata and self._still_there(kept):
                log.info("an upload is continued", bucket=bucket, key=key, parts=len(kept.done))
                return kept
            self.abort(kept)
        upload_id = self._store.create(bucket, key, metadata)
        self._journal.begin(bucket, key, upload_id)
        return OpenUpload(bucket, key, upload_id, source, metadata)

    def keep(self, upload: OpenUpload) -> None:
        """The upload failed in a way that may pass: the next `open` of this version continues it."""
        with self._lock:
            self._kept[upload.bucket, upload.key] = upload

    def completed(self, upload: OpenUpload) -> None:
        """The upload became an object."""
        self._journal.end(upload.upload_id)

    def abort(self, upload: OpenUpload) -> None:
        """Throw the upload away. One that cannot be aborted now is aborted at the worker's next start."""
        abort_left(self._store, self._journal, upload.bucket, upload.key, upload.upload_id)

    def abort_kept(self) -> None:
        """Throw away what nobody has continued."""
        with self._lock:
            kept = list(self._kept.values())
            self._kept.clear()
        for upload in kept:
            self.abort(upload)

    def _still_there(self, upload: OpenUpload) -> bool:
        try:
            there = self._store.parts(upload.bucket, upload.key, upload.upload_id)
        except UploadGone:
            return False
        upload.done = {
            number: part
            for number, part in upload.done.items()
            if number in there and there[number][0].strip('"') == part.etag.strip('"')
        }
        return True


def abort_left(store: Store, journal: UploadJournal, bucket: str, key: str, upload_id: str) -> None:
    """Abort an upload by its id; it stays in the journal when the store cannot be reached."""
    try:
        store.abort(bucket, key, upload_id)
    except OutOfReach as error:
        log.warning("a multipart upload could not be aborted yet", bucket=bucket, key=key, error=str(error))
        return
    except SyncError as error:  # no permission, no such bucket: another try would end as this one
        log.warning("a multipart upload cannot be aborted", bucket=bucket, key=key, error=str(error))
    journal.end(upload_id)
