"""Folders to buckets and back, outside of any job: what ``kelpie data`` runs on the engine's own parts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from kelpie.job import Direction, SyncEntry
from kelpie.patterns import Pattern
from kelpie_worker.sync import download
from kelpie_worker.sync.clients import ClientFactory
from kelpie_worker.sync.compression import SUFFIX
from kelpie_worker.sync.conditions import Conditions
from kelpie_worker.sync.context import JobContext
from kelpie_worker.sync.download import PlannedFile
from kelpie_worker.sync.errors import SourceChanged, SyncError
from kelpie_worker.sync.fencing import Fence
from kelpie_worker.sync.flow import Batch, run_all
from kelpie_worker.sync.folders import make_folder
from kelpie_worker.sync.gate import Gate
from kelpie_worker.sync.manifest import Manifest
from kelpie_worker.sync.observer import NullObserver
from kelpie_worker.sync.pool import Priority, TransferPool
from kelpie_worker.sync.remote import RemoteFile
from kelpie_worker.sync.settings import SyncSettings
from kelpie_worker.sync.store import Store
from kelpie_worker.sync.tree import Tree
from kelpie_worker.sync.upload import Uploaded, object_key, upload_file
from kelpie_worker.sync.uploads import UploadJournal, Uploads

OWNER = "kelpie-data"
"""What stands for the job in the metadata of objects that no job stored."""
MAX_CHANGES = 10
"""How often a file may change while it is uploaded before that is an error."""
CLOSE_TIMEOUT_S = 2.0


class Progress(Protocol):
    """Told how far a copy is. Called from transfer threads: must be quick."""

    def planned(self, files: int, size: int) -> None:
        """So many files and bytes more are to be moved."""

    def moved(self, size: int) -> None:
        """So many bytes more have arrived."""

    def ended(self) -> None:
        """One more file is in place."""


class _Unconditional(Conditions):
    """Nobody else is expected to write what a user copies: the last writer wins."""

    def wanted(self, bucket: str) -> bool:  # noqa: ARG002 -- the interface's
        """Never."""
        return False


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy did."""

    files: int
    size: int  # bytes
    unchanged: int
    """Files that were there already."""
    seconds: float


class Copier:
    """Copies between folders and one storage; a context manager, which ends the threads.

    What was copied is remembered in ``manifests``, so that the next copy of the same folder passes over what
    has not changed since; None: everything is copied.
    """

    def __init__(self, settings: SyncSettings, progress: Progress, *, manifests: Path | None) -> None:
        self._settings = settings
        self._progress = progress
        self._manifests = manifests
        self._pool = TransferPool(settings.threads, reserve=False)
        self._gate = Gate(lambda: True)
        self._clients = ClientFactory(settings)
        self._store = Store(self._clients, self._gate, max_tries=settings.max_retries, moved=progress.moved)

        self._uploads = Uploads(self._store, UploadJournal(None))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._uploads.abort_kept()
        self._gate.abandon()
        self._pool.close(CLOSE_TIMEOUT_S)

    def objects(self, bucket: str, prefix: str) -> Iterator[RemoteFile]:
        """Every object under the prefix."""
        return self._store.list(bucket, prefix)

    def put(
        self, source: Path, bucket: str, prefix: str, *, pattern: Pattern | None, compression: bool
    ) -> Copied:
        """Store a folder's files under the prefix, or one file: under the prefix if that is empty or ends in
        a slash, else as it. Nothing is deleted. SyncError names what could not be stored."""
        began = time.monotonic()
        context = self._context(compression)
        if source.is_file():
            if prefix and not prefix.endswith("/"):
                key = prefix
                if compression and not key.endswith(SUFFIX):
                    raise SyncError(f"a gzipped object has a name that ends in {SUFFIX}, not {key!r}")
            else:
                key = object_key(prefix, source.name, compression=compression)
            tree = Tree(source.resolve().parent)
            status = source.stat()
            flow = self._put_file(context, tree, source.resolve().name, bucket, key, None)
            self._progress.planned(1, status.st_size)
            self._run([flow])
            return Copied(1, status.st_size, 0, time.monotonic() - began)
        if not source.is_dir():
            raise SyncError(f"there is no folder or file {source}")
        tree, prefix = Tree(source.resolve()), as_folder(prefix)
        found = [
            (name, snapshot)
            for name, snapshot in tree.files(strict=True)
            if pattern is None or pattern.search(name) is not None
        ]
        with self._manifest(tree.root, bucket, prefix) as manifest:
            stored = self._listed(bucket, prefix) if manifest.known else {}
            todo = []
            for name, snapshot in found:
                remote = stored.get(object_key(prefix, name, compression=compression))
                if remote is None or not manifest.holds(remote.key, remote.etag, remote.size, snapshot):
                    todo.append((name, snapshot))
            size = sum(snapshot.size for _, snapshot in todo)
            self._progress.planned(len(todo), size)
            self._run(
                self._put_file(
                    context,
                    tree,
                    name,
                    bucket,
                    object_key(prefix, name, compression=compression),
                    manifest,
                )
                for name, _ in todo
            )
        return Copied(len(todo), size, len(found) - len(todo), time.monotonic() - began)

    def get(
        self, bucket: str, prefix: str, target: Path, *, pattern: Pattern | None, compression: bool
    ) -> Copied:
        """Fetch what is under the prefix, or else the one object of that name, into a folder. SyncError names
        what could not be fetched, also when there is neither."""
        began = time.monotonic()
        context = self._context(compression)
        make_folder(target)
        tree, name = Tree(target.resolve()), prefix
        prefix = as_folder(prefix)
        entry = SyncEntry(bucket, prefix, str(target), Direction.DOWNLOAD, None)
        planned = download.plan(context, [download.Source(entry, tree, pattern)])
        if not planned and next(self.objects(bucket, prefix), None) is None:
            planned = self._one_object(context, bucket, name, tree)
        with self._manifest(tree.root, bucket, prefix) as manifest:
            todo = [file for file in planned if not (manifest.known and manifest.in_place(file))]
            size = sum(file.remote.size for file in todo)
            self._progress.planned(len(todo), size)
            self._run(self._get_file(context, file, manifest) for file in todo)
        return Copied(len(todo), size, len(planned) - len(todo), time.monotonic() - began)

    # ---- steps

    def _one_object(self, context: JobContext, bucket: str, key: str, tree: Tree) -> list[PlannedFile]:
        """The object of that very key, to become a file of its last name."""
        for remote in self.objects(bucket, key):  # in order: itself before all that begin like it
            if remote.key == key and not key.endswith("/"):
                name = key.rpartition("/")[2]
                unzip = context.compression and name.endswith(SUFFIX)
                local = name.removesuffix(SUFFIX) if unzip else name
                return [PlannedFile(bucket, remote, tree.place(local, key=key), unzip)]
            break
        raise SyncError(f"there is nothing at s3://{bucket}/{key}")

    def _context(self, compression: bool) -> JobContext:
        return JobContext(
            job_id=OWNER,
            attempt=1,
            compression=compression,
            settings=self._settings,
            store=self._store,
            fence=Fence(self._store, self._gate, _Unconditional(), job_id=OWNER, attempt=1),
            uploads=self._uploads,
            gate=self._gate,
            observer=NullObserver(),
        )

    def _run(self, flows: Iterable[Generator[Batch, list[Any], None]]) -> None:
        run_all(self._pool.lane(Priority.OUTPUT), flows, width=self._settings.threads * 2)

    @contextlib.contextmanager
    def _manifest(self, folder: Path, bucket: str, prefix: str) -> Iterator[Manifest]:
        """What is known of the folder; what is copied meanwhile is kept, also by a copy that fails."""
        manifest = Manifest.load(self._manifests, folder, self._clients.where, bucket, prefix)
        try:
            yield manifest
        finally:
            manifest.save()

    def _listed(self, bucket: str, prefix: str) -> dict[str, RemoteFile]:
        return {each.key: each for each in self._store.list(bucket, prefix)}

    def _put_file(
        self, context: JobContext, tree: Tree, name: str, bucket: str, key: str, manifest: Manifest | None
    ) -> Generator[Batch, list[Any], None]:
        for _ in range(MAX_CHANGES):
            try:
                uploaded: Uploaded = yield from upload_file(
                    context, tree, name, bucket=bucket, prefix="", key=key
                )
            except SourceChanged:
                continue
            except FileNotFoundError:
                raise SyncError(f"the file {tree.root / name} vanished before it was uploaded") from None
            if manifest is not None:
                manifest.record(key, uploaded.etag, uploaded.size, uploaded.source)
            self._progress.ended()
            return
        raise SyncError(f"the file {tree.root / name} changed {MAX_CHANGES} times while it was uploaded")

    def _get_file(
        self, context: JobContext, file: PlannedFile, manifest: Manifest
    ) -> Generator[Batch, list[Any], None]:
        done = yield from download.download_file(context, file)
        manifest.record(done.key, file.remote.etag, file.remote.size, done.snapshot)
        self._progress.ended()


def as_folder(prefix: str) -> str:
    """The prefix of everything in the folder that it names."""
    return prefix if not prefix or prefix.endswith("/") else prefix + "/"
