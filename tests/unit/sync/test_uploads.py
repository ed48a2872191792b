"""Multipart uploads that were begun: continued, begun anew, or aborted; never left to lie."""

from __future__ import annotations

import json
import os
import threading
from email.utils import formatdate
from pathlib import Path

import pytest

from kelpie.job import Sync
from kelpie_worker.sync import CanceledTransfer, JobSync, NullObserver, SyncEngine, SyncError, mirror
from kelpie_worker.sync.journal import FolderJournal
from kelpie_worker.sync.uploads import UploadJournal
from tests.fault_proxy import (
    RESET_AFTER,
    RESET_MID,
    Answer,
    FaultProxy,
    Request,
    Slow,
    error,
    is_complete,
    is_create,
    is_part,
    times,
)
from tests.unit.sync.conftest import PART, Bucket, Engines, up
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("quick_retries")

DATA = os.urandom(4 * PART + 9)
PARTS = 5


@pytest.fixture
def store(emptied_store: Bucket) -> Bucket:
    return emptied_store


def watching(engines: Engines, store: Bucket, folder: Path) -> JobSync:
    """A job that watches, on an engine that sends one part after the other and soon gives up a request."""
    engine = engines.engine(max_retries=2, parts_per_file=1)
    job = engines.job(Sync(during=(up(store.name, "ck/", folder),)), engine=engine)
    job.watch()
    return job


class Outage:
    """A storage that is out of order from the given part on, until told otherwise."""

    def __init__(self, proxy: FaultProxy, from_part: int) -> None:
        self.over = False
        self.refused = 0
        self.sent: list[int] = []
        self._from_part = from_part
        proxy.early = self._early

    def _early(self, request: Request) -> str | None:
        if not is_part(request):
            return None
        number = int(request.path.partition("partNumber=")[2].partition("&")[0])
        if not self.over and number >= self._from_part:
            self.refused += 1
            return RESET_MID
        self.sent.append(number)
        return None


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watched file whose upload failed is tried again at once."""
    monkeypatch.setattr(mirror, "FAILED_PAUSE_S", 0.05)


@pytest.mark.usefixtures("soon")
def test_an_upload_that_failed_goes_on_where_it_stopped(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    outage = Outage(proxy, from_part=3)
    job = watching(engines, store, folder)
    (folder / "x").write_bytes(DATA)
    wait_until(lambda: outage.refused > 2, "the upload failed, and was tried again")
    outage.over = True
    job.drain()
    assert store.contents() == {"ck/x": DATA}
    assert sorted(outage.sent) == [1, 2, 3, 4, 5]
    assert store.multipart_uploads() == []


@pytest.mark.usefixtures("soon")
def test_a_file_that_changed_after_its_upload_failed_is_sent_from_the_start(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    outage = Outage(proxy, from_part=3)
    job = watching(engines, store, folder)
    (folder / "x").write_bytes(DATA)
    wait_until(lambda: outage.refused > 2, "the upload failed")
    changed = DATA[::-1]
    (folder / "x").write_bytes(changed)
    outage.over = True
    job.drain()
    assert store.contents() == {"ck/x": changed}
    assert store.multipart_uploads() == []


@pytest.mark.usefixtures("soon")
def test_an_upload_that_the_store_has_lost_is_begun_anew(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    outage = Outage(proxy, from_part=3)
    job = watching(engines, store, folder)
    (folder / "x").write_bytes(DATA)
    wait_until(lambda: outage.refused > 2, "the upload failed")
    for upload_id in store.multipart_uploads():
        store.client.abort_multipart_upload(Bucket=store.name, Key="ck/x", UploadId=upload_id)
    outage.over = True
    job.drain()
    assert store.contents() == {"ck/x": DATA}
    assert store.multipart_uploads() == []


def test_an_upload_that_is_aborted_while_its_parts_are_sent_is_begun_anew(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    aborted: list[str] = []

    def rule(request: Request) -> None:
        if is_complete(request) and not aborted:  # as a rule of the bucket's lifecycle would
            aborted.extend(store.multipart_uploads())
            store.client.abort_multipart_upload(Bucket=store.name, Key="out/x", UploadId=aborted[0])

    proxy.rule = rule
    job = engines.job(Sync(after=(up(store.name, "out/", folder),)))
    (folder / "x").write_bytes(DATA)
    job.stage()
    job.finalize()
    assert len(aborted) == 1
    assert store.contents() == {"out/x": DATA}
    assert store.multipart_uploads() == []


def test_a_store_that_loses_every_upload_is_an_error_not_an_endless_loop(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    proxy.rule = lambda request: error(404, "NoSuchUpload") if is_part(request) else None
    job = engines.job(Sync(after=(up(store.name, "out/", folder),)))
    (folder / "x").write_bytes(DATA)
    job.stage()
    with pytest.raises(SyncError, match="out/x: the storage lost the upload 3 times"):
        job.finalize()
    assert store.multipart_uploads() == []


@pytest.mark.parametrize(("rounded_s", "left"), [(2.0, ["out/x-other"]), (-60.0, ["out/x", "out/x-other"])])
def test_an_upload_whose_answer_was_lost_is_looked_for_and_aborted_by_its_key_and_age(
    engines: Engines,
    store: Bucket,
    folder: Path,
    proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
    rounded_s: float,
    left: list[str],
) -> None:
    monkeypatch.setattr("kelpie_worker.sync.store.ROUNDED_S", rounded_s)  # -60: only what is of tomorrow
    store.client.create_multipart_upload(Bucket=store.name, Key="out/x-other")
    proxy.rule = times(1, RESET_AFTER, is_create)
    upload(engines, store, folder)
    uploads = store.client.list_multipart_uploads(Bucket=store.name)["Uploads"]
    assert [each["Key"] for each in uploads] == left


def test_a_storage_that_lists_no_uploads_costs_no_job_its_output(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    lose = times(1, RESET_AFTER, is_create)

    def rule(request: Request) -> Answer | Slow | str | None:
        lists = request.method == "GET" and "?uploads" in request.path
        return error(403, "AccessDenied") if lists else lose(request)

    proxy.rule = rule
    upload(engines, store, folder)
    assert len(store.multipart_uploads()) == 1


def lists_uploads(request: Request) -> bool:
    return request.method == "GET" and "?uploads" in request.path


@pytest.mark.parametrize(
    ("begun", "aborts"),
    [("", 0), ("<Initiated>2999-01-01T00:00:00</Initiated>", 1)],
    ids=["no time", "no zone"],
)
def test_a_storage_that_says_less_of_its_uploads_costs_no_job_its_output(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy, begun: str, aborts: int
) -> None:
    listed = f"<Upload><Key>out/x</Key><UploadId>lost</UploadId>{begun}</Upload>"
    answer = Answer(
        body=f"<ListMultipartUploadsResult>{listed}</ListMultipartUploadsResult>".encode(),
        headers={"Content-Type": "application/xml", "Date": formatdate(usegmt=True)},
    )
    lose = times(1, RESET_AFTER, is_create)
    proxy.rule = lambda request: answer if lists_uploads(request) else lose(request)
    upload(engines, store, folder)
    asked = [each for each in proxy.requests if each.method == "DELETE" and "uploadId=lost" in each.path]
    assert len(asked) == aborts


def test_a_node_that_lost_its_job_meanwhile_aborts_no_upload_that_it_does_not_know(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    held = threading.Event()
    held.set()
    lose = times(1, RESET_AFTER, is_create)

    def rule(request: Request) -> Answer | Slow | str | None:
        if lists_uploads(request):
            held.clear()
        return lose(request)

    proxy.rule = rule
    job = engines.job(Sync(after=(up(store.name, "out/", folder),)), may_write=held.is_set)
    (folder / "x").write_bytes(DATA)
    job.stage()
    with pytest.raises(CanceledTransfer):
        job.finalize()
    assert len(store.multipart_uploads()) == 1


def upload(engines: Engines, store: Bucket, folder: Path) -> None:
    job = engines.job(Sync(after=(up(store.name, "out/", folder),)))
    (folder / "x").write_bytes(DATA)
    job.stage()
    job.finalize()
    assert store.contents() == {"out/x": DATA}


def test_the_uploads_of_a_killed_worker_are_aborted_at_the_next_start_and_no_others(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy, tmp_path: Path
) -> None:
    def begin(key: str) -> str:
        return store.client.create_multipart_upload(Bucket=store.name, Key=key)["UploadId"]

    foreign = begin("ck/x")  # another job's, of the very same key
    proxy.rule = lambda request: error(403, "AccessDenied") if request.method == "DELETE" else None
    Outage(proxy, from_part=3)
    killed = SyncEngine(engines.settings, NullObserver(), journal=tmp_path / "folders.json")
    job = engines.job(Sync(during=(up(store.name, "ck/", folder),)), engine=killed)
    job.watch()
    (folder / "x").write_bytes(DATA)
    journal = tmp_path / ".kelpie-uploads.json"
    wait_until(journal.exists, "the upload is noted")
    left = journal.read_text()
    job.abandon()
    job.clean()
    assert len(store.multipart_uploads()) == 2
    proxy.rule = lambda request: None
    journal.write_text(left)  # a worker that was killed would have left it so
    following = SyncEngine(engines.settings, NullObserver(), journal=tmp_path / "folders.json")
    following.recover()
    wait_until(lambda: store.multipart_uploads() == [foreign], "the upload is aborted")
    wait_until(lambda: not journal.exists(), "it is forgotten")
    killed.close()
    following.close()


def test_what_cannot_be_aborted_yet_is_kept_for_the_next_start(
    engines: Engines, store: Bucket, proxy: FaultProxy, tmp_path: Path
) -> None:
    def begin(key: str) -> str:
        return store.client.create_multipart_upload(Bucket=store.name, Key=key)["UploadId"]

    journal = tmp_path / ".kelpie-uploads.json"
    journal.write_text(json.dumps({begin("a"): [store.name, "a"], begin("b"): [store.name, "b"]}))

    def rule(request: Request) -> Answer | None:
        return error(503, "SlowDown") if "/b?" in request.path else None

    proxy.rule = rule
    engine = SyncEngine(engines.settings, NullObserver(), journal=tmp_path / "folders.json")
    engine.recover()
    wait_until(lambda: len(store.multipart_uploads()) == 1, "one is aborted")
    wait_until(lambda: [key for _, key in json.loads(journal.read_text()).values()] == ["b"], "one is kept")
    engine.close()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', '{"a": ["b"]}', '["a"]', "\0" * 100])
def test_an_unreadable_journal_stops_nobody(tmp_path: Path, content: str) -> None:
    path = tmp_path / "journal.json"
    path.write_text(content)
    journal = UploadJournal(path)
    assert journal.load() == []
    journal.begin("bucket", "key", "id")
    assert UploadJournal(path).load() == [("bucket", "key", "id")]
    journal.end("id")
    assert not path.exists()


def test_what_a_worker_left_that_was_killed_as_it_wrote_a_journal_goes(tmp_path: Path) -> None:
    for name, begin in (
        ("uploads.json", lambda path: UploadJournal(path).load()),
        ("folders.json", lambda path: FolderJournal(path, tmp_path).recover()),
    ):
        (tmp_path / f"{name}.new").write_text("{")
        begin(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_journal_that_cannot_be_written_stops_no_upload(tmp_path: Path) -> None:
    journal = UploadJournal(tmp_path / "no" / "journal.json")
    journal.begin("bucket", "key", "id")
    journal.end("id")
