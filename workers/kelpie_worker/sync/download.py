"""The ``before`` entries: from the bucket to the job's folders.

Everything is planned before anything is fetched, so that a key that leads out of its folder, or a missing
bucket, fails the attempt at once. Each file lands under a hidden name beside its own, is verified
and renamed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from kelpie.job import SyncEntry
from kelpie.patterns import Pattern
from kelpie_worker.sync import checksums, compression
from kelpie_worker.sync.anchor import anchored
from kelpie_worker.sync.context import JobContext
from kelpie_worker.sync.counts import EntryCount, Moving
from kelpie_worker.sync.errors import ObjectChanged, SyncError
from kelpie_worker.sync.flow import Batch
from kelpie_worker.sync.folders import HIDDEN_PREFIX
from kelpie_worker.sync.remote import RemoteFile, RemoteHead
from kelpie_worker.sync.tree import Snapshot, Tree

MAX_VERSIONS = 10
"""How often an object may be replaced while it is fetched before that is an error."""


@dataclass(frozen=True, slots=True)
class Source:
    """One ``before`` entry, checked."""

    entry: SyncEntry
    tree: Tree
    pattern: Pattern | None
    count: EntryCount = field(default_factory=EntryCount)


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One object and where it goes."""

    bucket: str
    remote: RemoteFile
    target: Path
    unzip: bool
    count: EntryCount = field(default_factory=EntryCount)  # of its entry


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A file in place, as it was when it was put there."""

    bucket: str
    key: str
    path: Path
    snapshot: Snapshot


def plan(context: JobContext, sources: Sequence[Source]) -> list[PlannedFile]:
    """What is to be fetched. Of two objects for one path the later entry's wins, and ``x.gz`` over ``x``."""
    planned: dict[Path, PlannedFile] = {}
    for source in sources:
        bucket, prefix = source.entry.bucket, source.entry.prefix
        chosen: dict[str, tuple[RemoteFile, bool]] = {}
        for remote in context.store.list(bucket, prefix):
            context.gate.check()
            name = remote.key.removeprefix(prefix)
            if not name or (source.pattern is not None and source.pattern.search(name) is None):
                continue
            if name.endswith("/"):
                if remote.size:
                    raise SyncError(
                        f"the object s3://{bucket}/{remote.key} has the name of a folder and holds data"
                    )
                source.tree.make_folder(name, key=remote.key)
                continue
            unzip = context.compression and name.endswith(compression.SUFFIX)
            local = name.removesuffix(compression.SUFFIX) if unzip else name
            if unzip or local not in chosen:
                chosen[local] = (remote, unzip)
        folder, place = None, None
        for local, (remote, unzip) in sorted(chosen.items()):
            above, _, last = local.rpartition("/")
            if place is None or above != folder:
                target = source.tree.place(local, key=remote.key)
                folder, place = above, target.parent
            else:  # beside the one before
                target = source.tree.place_beside(place, last, key=remote.key)
            planned[target] = PlannedFile(bucket, remote, target, unzip, source.count)
    folders = {target.parent: target for target in planned}
    for parent, target in list(folders.items()):
        folders |= dict.fromkeys(parent.parents, target)
    for path in folders.keys() & planned.keys():
        raise SyncError(
            f"the objects {planned[path].remote.key!r} and {planned[folders[path]].remote.key!r} cannot"
            " both be stored: one path would be a file and a folder"
        )
    return list(planned.values())


def download_file(context: JobContext, file: PlannedFile) -> Generator[Batch, list[Any], Downloaded]:
    """The flow that fetches one object. Raises SyncError (naming the key), CanceledTransfer."""
    with file.count.moving(file.remote.size) as moving:
        return (yield from _download(context, file, moving))


def _download(
    context: JobContext, file: PlannedFile, moving: Moving
) -> Generator[Batch, list[Any], Downloaded]:
    remote, path = file.remote, str(file.target)
    context.gate.check()
    context.observer.download_started(context.job_id, path)
    try:
        if not file.unzip and checksums.same_as_listed(
            file.target,
            size=remote.size,
            etag=remote.etag,
            part_size=context.settings.part_size,
            check=context.gate.check,
        ):
            moving.unchanged = True
            return _done(file)
        # a fixed length, whatever the length of the file's own name
        digest = hashlib.sha256(os.fsencode(file.target.name)).hexdigest()[:16]
        with anchored(file.target.parent) as folder:
            # plain strings: all this is done for every small file
            arriving = f"{folder}/{HIDDEN_PREFIX}{digest}.part"
            ready = f"{folder}/{HIDDEN_PREFIX}{digest}.out" if file.unzip else arriving
            try:
                head = yield from _fetch_verified(context, file, arriving, moving)
                context.fence.admit(file.bucket, remote.key, head)
                if file.unzip:
                    yield Batch([partial(_unzip, context, file, head, Path(arriving), Path(ready))], 1)
                    os.unlink(arriving)  # noqa: PTH108  (a plain string, for every file)
                mtime_ns = _mtime_ns(head, remote)
                os.utime(ready, ns=(mtime_ns, mtime_ns))
                context.gate.check()
                os.replace(ready, f"{folder}/{file.target.name}")  # noqa: PTH105  (a plain string, for every file)
            except BaseException:
                for left in {arriving, ready}:
                    Path(left).unlink(missing_ok=True)
                raise
        return _done(file)
    except OSError as error:
        raise SyncError(
            f"s3://{file.bucket}/{remote.key} cannot be stored at {path}: {error.strerror or error}"
        ) from None
    finally:
        context.observer.download_ended(context.job_id, path)


def _fetch_verified(
    context: JobContext, file: PlannedFile, path: str, moving: Moving
) -> Generator[Batch, list[Any], RemoteHead]:
    bucket, key = file.bucket, file.remote.key
    etag, size = file.remote.etag, file.remote.size
    part_size = context.settings.part_size
    damaged = 0
    for _ in range(MAX_VERSIONS):
        moving.restart()
        descriptor = _create(path)
        try:
            calls = _ranges(context, bucket, key, etag, size, descriptor, moving)
            if len(calls) == 1:
                fetched = [calls[0]()]
                head = fetched[0][0]
            else:
                look = partial(context.store.head, bucket, key)
                head, *fetched = yield Batch([look, *calls], context.settings.parts_per_file)
        except ObjectChanged:  # another version now: from the start, with its ETag
            now = context.store.head(bucket, key)
            etag, size = now.etag, now.size
            continue
        finally:
            os.close(descriptor)
        received = checksums.Received(part_size, [crc32 for _, crc32 in fetched])
        wrong = checksums.mismatch(path, head, received, context.gate.check)
        if wrong is None:
            return head
        damaged += 1
        if damaged >= context.settings.max_retries:
            raise SyncError(f"download s3://{bucket}/{key}: {wrong}")
    raise SyncError(
        f"download s3://{bucket}/{key}: the object was replaced {MAX_VERSIONS} times while it was fetched"
    )


def _create(path: str) -> int:
    """A new file to write to; one that a killed worker, or an earlier try, left is removed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o666)
    except FileExistsError:
        os.unlink(path)  # noqa: PTH108  (a plain string, for every file)
        return os.open(path, flags, 0o666)


def _ranges(
    context: JobContext, bucket: str, key: str, etag: str, size: int, descriptor: int, moving: Moving
) -> list[Callable[[], tuple[RemoteHead, int]]]:
    """The calls that fetch the object's parts; each gives what the store said, and the part's CRC32."""

    def write(offset: int, block: memoryview) -> None:
        while block:
            written = os.pwrite(descriptor, block, offset)
            offset, block = offset + written, block[written:]

    def fetch(start: int, length: int) -> tuple[RemoteHead, int]:
        head, crc32 = context.store.fetch(
            bucket, key, etag=etag, start=start, length=length, write=write, whole=length == size
        )
        # a store that does not know If-Match may answer with another version
        if head.etag != etag or head.size != size:
            raise ObjectChanged(f"s3://{bucket}/{key} was replaced while it was fetched")
        moving.part(length)
        return head, crc32

    part = context.settings.part_size
    starts = range(0, size, part) if size else [0]
    return [partial(fetch, start, min(part, size - start)) for start in starts]


def _unzip(context: JobContext, file: PlannedFile, head: RemoteHead, source: Path, target: Path) -> None:
    declared = head.metadata.get("kelpie-size", "")
    target.unlink(missing_ok=True)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        compression.gunzip(
            source,
            descriptor,
            declared_size=int(declared) if declared.isdigit() else None,
            key=file.remote.key,
            check=context.gate.check,
        )
    finally:
        os.close(descriptor)


def _mtime_ns(head: RemoteHead, remote: RemoteFile) -> int:
    """The file's own time, for commands that resume from the newest of several checkpoints."""
    stored = head.metadata.get("kelpie-mtime", "")
    if stored.isdigit() and len(stored) < 20:
        return int(stored)
    return round(remote.modified.timestamp() * 1e9)


def _done(file: PlannedFile) -> Downloaded:
    return Downloaded(file.bucket, file.remote.key, file.target, Snapshot.of(os.stat(file.target)))  # noqa: PTH116  (a plain string, for every file)
