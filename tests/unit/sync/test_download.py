"""The `before` entries."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from kelpie.job import Sync
from kelpie_worker.sync import CanceledTransfer, JobSync, SyncError
from kelpie_worker.sync.clients import ClientFactory
from kelpie_worker.sync.transport import Body
from tests.fault_proxy import RESET, TRUNCATE, Answer, FaultProxy, Request, error, is_fetch, times
from tests.unit.sync.conftest import PART, Bucket, Engines, down, tree
from tests.waiting import wait_until


def before(
    engines: Engines, store: Bucket, folder: Path, pattern: str | None = None, **job: object
) -> JobSync:
    return engines.job(Sync(before=(down(store.name, "in/", folder, pattern),)), **job)


def test_every_object_of_the_prefix_lands_in_the_folder(
    engines: Engines, store: Bucket, folder: Path
) -> None:
    files = {
        "a": b"1",
        "sub/b": b"22",
        "sub/deep/c": b"",
        "big": os.urandom(2 * PART + 17),
        "edge": os.urandom(PART),
    }
    for name, data in files.items():
        store.put(f"in/{name}", data)
    store.put("other/x", b"not mine")
    before(engines, store, folder).download()
    assert tree(folder) == files


def test_a_listing_of_several_pages_is_read_to_its_end(engines: Engines, store: Bucket, folder: Path) -> None:
    client = ClientFactory(engines.settings)()
    for number in range(1100):
        body: Any = Body(b"x", lambda: None)
        client.put_object(Bucket=store.name, Key=f"in/{number}", Body=body, ContentLength=1)
    before(engines, store, folder).download()
    assert len(list(folder.iterdir())) == 1100


def test_the_pattern_is_searched_in_the_key_below_the_prefix(
    engines: Engines, store: Bucket, folder: Path
) -> None:
    for name in ("in/a.ckpt", "in/sub/b.ckpt", "in/a.txt"):
        store.put(name, b"x")
    before(engines, store, folder, r"^(sub\/)?\w\.\u0063kpt$").download()
    assert set(tree(folder)) == {"a.ckpt", "sub/b.ckpt"}


def test_folder_markers_make_folders(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    listing = b"""<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated>
      <Contents><Key>in/empty/</Key><Size>0</Size><ETag>"d41d8cd98f00b204e9800998ecf8427e"</ETag>
      <LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents></ListBucketResult>"""
    proxy.rule = lambda request: Answer(200, listing) if "list-type=2" in request.path else None
    before(engines, store, folder).download()
    assert (folder / "empty").is_dir()
    assert tree(folder) == {}


@pytest.mark.parametrize(
    "key", ["in/../evil", "in/a/../../evil", "in//etc/evil", "in/./x", "in/a//b", "in/" + "n" * 256]
)
def test_a_key_that_is_no_path_in_the_folder_is_refused_by_name(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy, key: str
) -> None:
    listing = f"""<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated>
      <Contents><Key>{key}</Key><Size>1</Size><ETag>"0"</ETag>
      <LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents></ListBucketResult>"""
    proxy.rule = lambda request: Answer(200, listing.encode()) if "list-type=2" in request.path else None
    outside = tree(engines.home)
    with pytest.raises(SyncError, match=r"refused") as refused:
        before(engines, store, folder).download()
    assert key in str(refused.value)
    assert tree(engines.home) == outside


def test_a_symlink_in_the_folder_leads_no_object_out_of_it(
    engines: Engines, store: Bucket, folder: Path
) -> None:
    outside = engines.home / "outside"
    outside.mkdir()
    folder.mkdir(parents=True)
    (folder / "way").symlink_to(outside)
    (folder / "file").symlink_to(outside / "target")
    store.put("in/file", b"replaces the link itself")
    before(engines, store, folder).download()
    assert (folder / "file").read_bytes() == b"replaces the link itself"
    store.put("in/way/x", b"x")
    with pytest.raises(SyncError, match="in/way/x"):
        before(engines, store, folder).download()
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("swapped", ["a", "c"], ids=["under way", "not begun"])
def test_a_folder_swapped_for_a_symlink_during_the_download_leads_no_object_out(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy, swapped: str
) -> None:
    outside = engines.home / "outside"
    outside.mkdir()
    for name in "abc":
        store.put(f"in/{name}/x", name.encode())

    def rule(request: Request) -> None:
        if "/in/a/x" in request.path:
            (folder / swapped).rename(engines.home / "moved away")
            (folder / swapped).symlink_to(outside)

    proxy.rule = rule
    with pytest.raises(SyncError, match=f"in/{swapped}/x|{swapped} was replaced by a symlink"):
        before(engines, store, folder, engine=engines.engine(threads=1)).download()
    assert list(outside.iterdir()) == []


def test_a_backslash_in_a_key_is_a_letter_like_any_other(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    etag = '"9dd4e461268c8034f5c8564e155c67a6"'  # of "x"; this server would take a backslash for a slash
    listing = f"""<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated>
      <Contents><Key>in/..\\..\\evil</Key><Size>1</Size><ETag>{etag}</ETag>
      <LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents></ListBucketResult>""".encode()
    fetched = Answer(206, b"x", {"ETag": etag, "Content-Range": "bytes 0-0/1"})
    proxy.rule = lambda request: fetched if is_fetch(request) else Answer(200, listing)
    before(engines, store, folder).download()
    assert tree(folder) == {"..\\..\\evil": b"x"}


def test_a_missing_bucket_is_an_error_and_an_empty_prefix_is_none(
    engines: Engines, store: Bucket, folder: Path
) -> None:
    before(engines, store, folder).download()
    assert tree(folder) == {}
    with pytest.raises(SyncError, match="NoSuchBucket"):
        engines.job(Sync(before=(down("no-such-bucket-here", "in/", folder),))).download()


def test_what_is_there_already_is_not_fetched_again(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    store.put("in/small", b"same")
    store.put("in/changed", b"new!")
    job = before(engines, store, folder)
    folder.joinpath("small").write_bytes(b"same")
    folder.joinpath("changed").write_bytes(b"old!")
    job.download()
    assert {each.path.split("?")[0] for each in proxy.requests if is_fetch(each)} == {
        f"/{store.name}/in/changed"
    }
    assert folder.joinpath("changed").read_bytes() == b"new!"


def test_two_entries_may_share_a_folder_and_the_later_wins(
    engines: Engines, store: Bucket, folder: Path
) -> None:
    store.put("a/x", b"a")
    store.put("a/only-a", b"a")
    store.put("b/x", b"b")
    engines.job(Sync(before=(down(store.name, "a/", folder), down(store.name, "b/", folder)))).download()
    assert tree(folder) == {"x": b"b", "only-a": b"a"}


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("fault", [RESET, TRUNCATE, error(503, "SlowDown"), error(500, "InternalError")])
def test_a_passing_fault_is_retried(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy, fault: Answer | str
) -> None:
    data = os.urandom(PART + 100)
    store.put("in/x", data)
    proxy.rule = times(2, fault, is_fetch)
    before(engines, store, folder).download()
    assert tree(folder) == {"x": data}


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("fault", [TRUNCATE, error(403, "AccessDenied"), error(404, "NoSuchKey")])
def test_a_lasting_fault_names_the_object_and_leaves_no_part_of_it(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy, fault: Answer | str
) -> None:
    store.put("in/x", b"12345678")
    proxy.rule = times(1000, fault, is_fetch)
    with pytest.raises(SyncError, match="in/x"):
        before(engines, store, folder).download()
    assert list(folder.rglob("*")) == []
    tries = sum(is_fetch(request) for request in proxy.requests)
    assert tries == (engines.settings.max_retries if fault == TRUNCATE else 1)


def test_a_connection_that_stands_still_is_given_up_and_tried_again(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    store.put("in/x", b"12345678")
    go_on = threading.Event()
    first = times(1, "", is_fetch)

    def rule(request: Request) -> None:
        if first(request) is not None:
            go_on.wait(20)

    proxy.rule = rule
    before(engines, store, folder, engine=engines.engine(stall_timeout_s=0.5)).download()
    go_on.set()
    assert tree(folder) == {"x": b"12345678"}


def test_altered_bytes_are_noticed(engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy) -> None:
    store.put("in/x", b"the truth")
    etag = store.client.head_object(Bucket=store.name, Key="in/x")["ETag"]
    altered = Answer(206, b"the trith", {"ETag": etag, "Content-Range": "bytes 0-8/9"})
    proxy.rule = times(1000, altered, is_fetch)
    with pytest.raises(SyncError, match=r"in/x.*MD5"):
        before(engines, store, folder).download()
    assert list(folder.rglob("*")) == []


def test_an_object_replaced_during_its_download_is_never_mixed(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    old, new = b"o" * (3 * PART), b"n" * (3 * PART + 5)
    store.put("in/x", old)
    lock = threading.Lock()
    fetched = []

    def rule(request: Request) -> None:
        if is_fetch(request):
            with lock:
                fetched.append(request)
                if len(fetched) == 2:
                    store.put("in/x", new)

    proxy.rule = rule
    before(engines, store, folder).download()
    assert folder.joinpath("x").read_bytes() == new


def test_a_file_keeps_the_time_it_was_modified(engines: Engines, store: Bucket, folder: Path) -> None:
    store.put("in/x", b"x", Metadata={"kelpie-mtime": "1600000000123456789"})
    before(engines, store, folder).download()
    assert folder.joinpath("x").stat().st_mtime_ns == 1600000000123456789


def test_abandon_ends_a_download_at_once(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    store.put("in/x", os.urandom(4 * PART))
    arrived, go_on = threading.Event(), threading.Event()

    def rule(request: Request) -> None:
        if is_fetch(request):
            arrived.set()
            go_on.wait(20)

    proxy.rule = rule
    job = before(engines, store, folder)
    ends: list[BaseException] = []

    def download() -> None:
        try:
            job.download()
        except CanceledTransfer as end:
            ends.append(end)

    thread = threading.Thread(target=download)
    thread.start()
    assert arrived.wait(20)
    job.abandon()
    go_on.set()
    thread.join(20)
    assert isinstance(ends[0], CanceledTransfer)
    wait_until(lambda: not job.busy, "the transfers noticed")
    assert list(folder.rglob("*")) == []
    began = len(proxy.requests)
    with pytest.raises(CanceledTransfer):
        job.download()
    assert len(proxy.requests) == began
