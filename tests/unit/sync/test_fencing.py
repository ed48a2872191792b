"""No write is late: what a request expects of the object is compared by the store when it arrives."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import structlog

from kelpie.job import Sync
from kelpie_worker.sync import CanceledTransfer, JobSync, SyncError
from tests.fault_proxy import (
    RESET_AFTER,
    Answer,
    FaultProxy,
    Request,
    error,
    is_complete,
    is_put,
    times,
)
from tests.unit.sync.conftest import PART, Bucket, Engines, down, up
from tests.waiting import wait_until

JOB = "0f3c1f7a-0000-4000-8000-000000000001"
OTHER = "0f3c1f7a-0000-4000-8000-000000000002"
BIG = 2 * PART + 1


@pytest.fixture
def store(emptied_store: Bucket) -> Bucket:
    return emptied_store


def store_as(
    engines: Engines, store: Bucket, folder: Path, data: bytes, *, key: str = "out/x", **job: object
) -> None:
    """The object as the attempt of a job would store it."""
    job_sync = output(engines, store, folder, {Path(key).name: data}, **job)
    job_sync.finalize()
    job_sync.clean()


def output(engines: Engines, store: Bucket, folder: Path, files: dict[str, bytes], **job: object) -> JobSync:
    """A job that has yet to upload its outputs."""
    sync = engines.job(Sync(after=(up(store.name, "out/", folder),)), **job)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    sync.stage()
    return sync


@pytest.mark.parametrize("size", [3, BIG], ids=["put", "multipart"])
def test_a_request_under_way_when_the_next_attempt_stores_the_object_changes_nothing(
    engines: Engines, store: Bucket, folder: Path, tmp_path: Path, proxy: FaultProxy, size: int
) -> None:
    late, newer = b"l" * size, b"n" * size
    held, arrived, go_on = threading.Event(), threading.Event(), threading.Event()
    held.set()
    zombie = output(engines, store, folder, {"x": late}, id=JOB, attempt=1, may_write=held.is_set)
    first = times(1, "", is_put if size < PART else is_complete)

    def rule(request: Request) -> None:
        if first(request) is not None:
            arrived.set()
            go_on.wait(30)  # the network holds it back, all of it

    proxy.rule = rule
    ends: list[BaseException] = []

    def finalize() -> None:
        try:
            zombie.finalize()
        except CanceledTransfer as end:
            ends.append(end)

    thread = threading.Thread(target=finalize)
    thread.start()
    assert arrived.wait(30)
    held.clear()
    store_as(engines, store, tmp_path / "next", newer, id=JOB, attempt=2)
    go_on.set()
    thread.join(30)
    assert len(ends) == 1
    assert store.contents() == {"out/x": newer}
    assert store.metadata("out/x")["kelpie-attempt"] == "2"
    zombie.clean()
    assert store.multipart_uploads() == []


@pytest.mark.parametrize("size", [3, BIG], ids=["put", "multipart"])
def test_an_attempt_that_finds_a_later_ones_object_writes_nothing_more_and_says_why(
    engines: Engines, store: Bucket, folder: Path, tmp_path: Path, size: int
) -> None:
    store_as(engines, store, tmp_path / "next", b"newer", id=JOB, attempt=3)
    zombie = output(engines, store, folder, {"x": b"l" * size}, id=JOB, attempt=2)  # believes in its lease
    with pytest.raises(SyncError, match=r"out/x was stored by attempt 3 .* attempt 2 must not write"):
        zombie.finalize()
    assert store.contents() == {"out/x": b"newer"}
    with pytest.raises(SyncError, match="attempt 3"):
        zombie.finalize()
    zombie.clean()
    assert store.multipart_uploads() == []


def test_an_attempt_that_fetches_a_later_ones_object_is_fenced_before_its_command_runs(
    engines: Engines, store: Bucket, folder: Path, tmp_path: Path
) -> None:
    store_as(engines, store, tmp_path / "next", b"newer", id=JOB, attempt=2)
    entries = {"before": (down(store.name, "out/", folder),), "during": (up(store.name, "out/", folder),)}
    zombie = engines.job(Sync(**entries), id=JOB, attempt=1)  # frozen between its lease and its download
    with pytest.raises(SyncError, match="out/x was stored by attempt 2"):
        zombie.download()
    assert store.contents() == {"out/x": b"newer"}


def test_a_later_attempts_object_stops_the_watch_too(
    engines: Engines, store: Bucket, folder: Path, tmp_path: Path
) -> None:
    store_as(engines, store, tmp_path / "next", b"newer", id=JOB, attempt=2)
    zombie = engines.job(Sync(during=(up(store.name, "out/", folder),)), id=JOB, attempt=1)
    zombie.watch()
    (folder / "x").write_bytes(b"late")
    wait_until(lambda: zombie._gate.abandoned, "the gate is closed")
    (folder / "y").write_bytes(b"late, too")
    with pytest.raises(SyncError, match="attempt 2"):
        zombie.drain()
    assert store.contents() == {"out/x": b"newer"}


@pytest.mark.parametrize("size", [3, BIG], ids=["put", "multipart"])
@pytest.mark.parametrize(
    ("job", "attempt"),
    [(JOB, 1), (OTHER, 9), (None, 0)],
    ids=["earlier-attempt", "other-job", "other-program"],
)
def test_what_anybody_else_stored_before_is_replaced(
    engines: Engines, store: Bucket, folder: Path, tmp_path: Path, size: int, job: str | None, attempt: int
) -> None:
    if job is None:
        store.put("out/x", b"old")
    else:
        store_as(engines, store, tmp_path / "old", b"old", id=job, attempt=attempt)
    store_as(engines, store, folder, b"n" * size, id=JOB, attempt=2)
    assert store.contents() == {"out/x": b"n" * size}
    assert store.multipart_uploads() == []


@pytest.mark.parametrize("text", ["later", "", "-5", "9" * 40, "٣", "1e9"])
def test_metadata_that_name_no_attempt_fence_nobody(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy, text: str
) -> None:
    """A server that holds anything may say anything."""
    store.put("out/x", b"old", Metadata={"kelpie-job": JOB})
    said = {"x-amz-meta-kelpie-job": JOB, "x-amz-meta-kelpie-attempt": text.encode().decode("latin-1")}
    etag = store.client.head_object(Bucket=store.name, Key="out/x")["ETag"]
    head = Answer(200, b"", {"ETag": etag, "Content-Length": "3", **said})
    proxy.rule = times(1, head, lambda request: request.method == "HEAD")
    store_as(engines, store, folder, b"new", id=JOB, attempt=2)
    assert store.contents() == {"out/x": b"new"}


@pytest.mark.parametrize("size", [3, BIG], ids=["put", "multipart"])
def test_a_write_whose_answer_was_lost_is_known_for_ones_own(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy, size: int
) -> None:
    proxy.rule = times(1, RESET_AFTER, is_put if size < PART else is_complete)
    data = os.urandom(size)
    store_as(engines, store, folder, data, id=JOB)
    assert store.contents() == {"out/x": data}
    assert store.multipart_uploads() == []


def test_two_entries_with_one_key_do_not_stand_in_each_others_way(
    engines: Engines, store: Bucket, tmp_path: Path
) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    job = engines.job(Sync(after=tuple(up(store.name, "out/", each) for each in folders)))
    for each in folders:
        for number in range(10):
            (each / str(number)).write_bytes(each.name.encode())
    job.stage()
    job.finalize()
    assert set(store.contents().values()) <= {b"a", b"b"}
    assert len(store.names()) == 10


def test_a_deletion_spares_what_another_job_has_stored_meanwhile(
    engines: Engines, store: Bucket, folder: Path, tmp_path: Path
) -> None:
    job = engines.job(Sync(during=(up(store.name, "out/", folder),)), id=JOB, attempt=1)
    job.watch()
    for name in ("x", "y"):
        (folder / name).write_bytes(b"mine")
    wait_until(lambda: store.names() == {"out/x", "out/y"}, "the files are stored")
    store_as(engines, store, tmp_path / "other", b"theirs", id=OTHER)
    for name in ("x", "y"):
        (folder / name).unlink()
    job.drain()
    assert store.contents() == {"out/x": b"theirs"}


def test_a_late_deletion_spares_what_the_next_attempt_has_stored(
    engines: Engines, store: Bucket, folder: Path, tmp_path: Path, proxy: FaultProxy
) -> None:
    job = engines.job(Sync(during=(up(store.name, "out/", folder),)), id=JOB, attempt=1)
    job.watch()
    (folder / "x").write_bytes(b"old")
    wait_until(lambda: store.names() == {"out/x"}, "the file is stored")
    arrived, go_on = threading.Event(), threading.Event()

    def rule(request: Request) -> None:
        if request.method == "DELETE":
            arrived.set()
            go_on.wait(30)

    proxy.rule = rule
    (folder / "x").unlink()
    assert arrived.wait(30)
    store_as(engines, store, tmp_path / "next", b"newer", id=JOB, attempt=2)
    go_on.set()
    with pytest.raises(SyncError, match="attempt 2"):
        job.drain()
    assert store.contents() == {"out/x": b"newer"}


@pytest.mark.parametrize("size", [3, BIG], ids=["put", "multipart"])
@pytest.mark.parametrize("refuses", [True, False], ids=["refuses", "ignores"])
def test_a_store_without_conditional_writes_is_found_out_once_and_serves_as_before(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy, size: int, refuses: bool
) -> None:
    conditional = []

    def rule(request: Request) -> Answer | None:
        conditions = [name for name in ("if-match", "if-none-match") if name in request.headers]
        if request.method == "GET" or not conditions:
            return None
        conditional.append(request)
        if refuses:
            return error(501, "NotImplemented")
        if "if-none-match" in conditions:  # what was there is gone, as if it had been written over
            key = request.path.partition("?")[0].removeprefix(f"/{store.name}/")
            store.client.delete_object(Bucket=store.name, Key=key)
        return None

    proxy.rule = rule
    store.put("out/x", b"old")
    files = {name: name.encode() + os.urandom(size) for name in "xyz"}
    job = output(engines, store, folder, files | {"small": b"s"})
    with structlog.testing.capture_logs() as logs:
        job.finalize()
    told = [entry for entry in logs if "no conditional writes" in entry["event"]]
    assert store.contents() == {f"out/{name}": data for name, data in (files | {"small": b"s"}).items()}
    assert len(told) == 1
    assert told[0]["bucket"] == store.name
    before = len(conditional)
    following = output(engines, store, folder, {"later": b"l"})
    following.finalize()
    assert len(conditional) == before
    assert store.get("out/later") == b"l"


def test_a_store_that_answers_404_to_an_unmet_if_match_is_understood(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    job = engines.job(Sync(during=(up(store.name, "out/", folder),)))
    job.watch()
    (folder / "x").write_bytes(b"1")
    wait_until(lambda: store.names() == {"out/x"}, "the file is stored")
    store.client.delete_object(Bucket=store.name, Key="out/x")
    proxy.rule = times(1, error(404, "NoSuchKey"), is_put)
    (folder / "x").write_bytes(b"2")
    job.drain()
    assert store.contents() == {"out/x": b"2"}
