"""What is told of the transfers of each entry is what happened, while it happens and at the end."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from kelpie.job import Sync
from kelpie.transfers import EntryTransfers, TransferReport, TransferState
from kelpie_worker.sync import SyncError
from kelpie_worker.sync.counts import EntryCount
from kelpie_worker.sync.errors import CanceledTransfer
from tests.fault_proxy import FaultProxy, Request, is_part
from tests.unit.sync.conftest import PART, Bucket, Engines, down, up
from tests.waiting import wait_until

DONE, MOVING, WAITING = TransferState.DONE, TransferState.MOVING, TransferState.WAITING


def test_every_entry_tells_its_own_files_bytes_and_end(
    engines: Engines, emptied_store: Bucket, tmp_path: Path
) -> None:
    store = emptied_store
    store.put("in/a", b"12345")
    store.put("in/deep/b", b"1234567")
    store.put("ck/old", b"123")
    store.put("ck/other", b"1")
    data, checkpoints, out = tmp_path / "in", tmp_path / "ck", tmp_path / "out"
    job = engines.job(
        Sync(
            before=(down(store.name, "in/", data), down(store.name, "ck/", checkpoints, "^o")),
            during=(up(store.name, "ck/", checkpoints, "^(old|new)$"),),
            after=(up(store.name, "out/", out), up(store.name, "nothing/", tmp_path / "empty")),
        )
    )
    nothing = EntryTransfers()
    assert job.transfers == TransferReport((nothing,) * 2, (nothing,), (nothing,) * 2)
    (data / "a").write_bytes(b"12345")  # as it is in the bucket
    job.download()
    told = job.transfers.before
    assert told == (
        EntryTransfers(DONE, files=1, bytes=7, unchanged=1),
        EntryTransfers(DONE, files=2, bytes=4),
    )
    assert told[0].last_age_s is not None
    job.watch()
    assert job.transfers.during == (EntryTransfers(MOVING, unchanged=1),)  # `other` is none of its own
    (checkpoints / "new").write_bytes(b"x" * 10)
    wait_until(lambda: job.transfers.during[0].files == 1, "the checkpoint is stored")
    (checkpoints / "new").write_bytes(b"y" * 20)
    (out / "result").write_bytes(b"z" * 30)
    job.drain()
    assert job.transfers.during == (EntryTransfers(DONE, files=2, bytes=30, unchanged=1),)
    assert job.transfers.after == (nothing, nothing)
    job.stage()
    assert job.transfers.after == (EntryTransfers(waiting_files=1, waiting_bytes=30), nothing)
    assert job.transfers.after[0].last_age_s is None
    job.finalize()
    assert job.transfers.after == (EntryTransfers(DONE, files=1, bytes=30), EntryTransfers(DONE))


def test_a_large_file_tells_the_parts_that_have_arrived_and_counts_when_all_have(
    engines: Engines, emptied_store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    go = threading.Event()
    held: list[Request] = []

    def hold(request: Request) -> None:
        if is_part(request) and "partNumber=2" in request.path:
            held.append(request)
            go.wait(30)

    proxy.rule = hold
    job = engines.job(Sync(after=(up(emptied_store.name, "out/", folder),)))
    (folder / "big").write_bytes(b"x" * (2 * PART + 5))
    job.stage()
    finalizing = threading.Thread(target=job.finalize)
    finalizing.start()
    try:
        expected = EntryTransfers(MOVING, bytes=PART + 5, waiting_files=1, waiting_bytes=PART)
        wait_until(lambda: job.transfers.after == (expected,), "the first and the last part")
    finally:
        go.set()
        finalizing.join()
    assert held
    assert job.transfers.after == (EntryTransfers(DONE, files=1, bytes=2 * PART + 5),)


def test_packed_files_count_as_the_storage_holds_them(
    engines: Engines, emptied_store: Bucket, folder: Path
) -> None:
    job = engines.job(Sync(after=(up(emptied_store.name, "out/", folder),)), compression=True)
    (folder / "text").write_bytes(b"x" * 100_000)
    job.stage()
    job.finalize()
    stored = len(emptied_store.get("out/text.gz"))
    assert job.transfers.after == (EntryTransfers(DONE, files=1, bytes=stored),)
    again = engines.job(Sync(before=(down(emptied_store.name, "out/", folder),)), compression=True)
    again.download()
    assert again.transfers.before == (EntryTransfers(DONE, files=1, bytes=stored),)


def test_a_transfer_that_fails_is_told_and_waits_still(
    engines: Engines, emptied_store: Bucket, folder: Path
) -> None:
    emptied_store.put("in/x.gz", b"no gzip")
    job = engines.job(Sync(before=(down(emptied_store.name, "in/", folder),)), compression=True)
    with pytest.raises(SyncError):
        job.download()
    assert job.transfers.before == (EntryTransfers(MOVING, waiting_files=1, waiting_bytes=7, failures=1),)


def test_a_file_that_is_given_up_leaves_no_bytes_and_only_errors_are_failures() -> None:
    count = EntryCount()
    count.enter(MOVING)
    ends = ((CanceledTransfer("gone"), 0), (FileNotFoundError(), 0), (SyncError("no"), 1), (OSError("no"), 2))
    for error, failures in ends:
        with suppress(type(error)), count.moving() as file:
            file.part(5)
            assert count.report().bytes == 5
            raise error
        assert count.report() == EntryTransfers(MOVING, failures=failures)
    with count.moving() as file:
        file.part(5)
        file.restart()
        file.part(7)
    assert count.report() == EntryTransfers(MOVING, files=1, bytes=7, failures=2)
    assert replace(count.report(), last_age_s=None) == count.report()  # time alone is no news
