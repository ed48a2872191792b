"""The `after` entries: set aside, stored, verified, and only then deleted."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from kelpie.job import Sync
from kelpie_worker.sync import CanceledTransfer, JobSync, SyncError
from tests.fault_proxy import (
    RESET,
    RESET_AFTER,
    Answer,
    FaultProxy,
    Request,
    Rule,
    error,
    is_complete,
    is_part,
    is_put,
    times,
)
from tests.unit.sync.conftest import PART, Bucket, Engines, down, tree, up


def after(engines: Engines, store: Bucket, folder: Path | str, **job: object) -> JobSync:
    return engines.job(Sync(after=(up(store.name, "out/", folder),)), **job)


def hidden(home: Path) -> list[Path]:
    return list(home.rglob(".kelpie-*"))


def test_outputs_are_set_aside_at_once_and_stored_from_there(
    engines: Engines, store: Bucket, folder: Path
) -> None:
    files = {"a": b"1", "sub/b": os.urandom(2 * PART + 1), "empty": b""}
    job = after(engines, store, folder, id="the-job", attempt=3)
    folder.chmod(0o750)
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    job.drain()
    job.stage()
    assert list(folder.iterdir()) == []
    assert folder.stat().st_mode & 0o777 == 0o750
    (folder / "of the next job").write_bytes(b"n")
    job.finalize()
    assert store.contents() == {f"out/{name}": data for name, data in files.items()}
    assert all(store.metadata(key)["kelpie-attempt"] == "3" for key in store.names())
    job.clean()
    assert tree(folder) == {"of the next job": b"n"}
    assert hidden(engines.home) == []
    assert list(engines.temp_dir.iterdir()) == []
    assert not job.busy


def test_a_folder_that_the_command_never_made_is_empty_not_a_failure(
    engines: Engines, store: Bucket, folder: Path
) -> None:
    job = after(engines, store, folder)
    folder.rmdir()
    job.stage()
    job.finalize()
    job.clean()
    assert store.names() == set()
    assert hidden(engines.home) == []


def test_two_entries_with_one_folder_both_get_everything(
    engines: Engines, store: Bucket, folder: Path
) -> None:
    job = engines.job(
        Sync(
            after=(
                up(store.name, "a/", folder),
                up(store.name, "b/", folder),
                up(store.name, "c/", folder / "sub"),
            )
        )
    )
    (folder / "x").write_bytes(b"1")
    (folder / "sub" / "y").write_bytes(b"2")
    job.stage()
    job.finalize()
    assert store.contents() == {"a/x": b"1", "a/sub/y": b"2", "b/x": b"1", "b/sub/y": b"2", "c/y": b"2"}


def test_all_folders_of_the_job_are_empty_for_the_next(
    engines: Engines, store: Bucket, tmp_path: Path
) -> None:
    store.put("in/x", b"x")
    folders = [tmp_path / name for name in ("in", "ck", "out")]
    job = engines.job(
        Sync(
            before=(down(store.name, "in/", folders[0]),),
            during=(up(store.name, "ck/", folders[1]),),
            after=(up(store.name, "out/", folders[2]),),
        )
    )
    job.download()
    job.watch()
    for folder in folders:
        (folder / "made").write_bytes(b"m")
    job.drain()
    job.stage()
    assert [list(folder.iterdir()) for folder in folders] == [[], [], []]
    job.finalize()
    assert store.names() == {"in/x", "ck/made", "out/made"}


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs a second file system")
def test_outputs_on_another_file_system_are_copied_when_they_cannot_stay(
    engines: Engines, store: Bucket, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = Path("/dev/shm") / f"kelpie-test-{os.getpid()}"
    try:
        job = after(engines, store, shared)
        (shared / "sub").mkdir()
        (shared / "sub" / "x").write_bytes(b"1")
        (shared / "link").symlink_to("sub/x")
        os.mkfifo(shared / "sub" / "pipe")
        with monkeypatch.context() as mount_point:
            mount_point.setattr(Path, "rename", _refuse_rename)
            job.stage()
        assert list(shared.iterdir()) == []
        assert len(list(engines.temp_dir.iterdir())) == 1
        job.finalize()
        assert store.contents() == {"out/sub/x": b"1", "out/link": b"1"}
        assert list(engines.temp_dir.iterdir()) == []
    finally:
        for path in sorted(shared.rglob("*"), reverse=True):
            path.unlink() if not path.is_dir() else path.rmdir()
        shared.rmdir()


def _refuse_rename(self: Path, target: Path) -> Path:
    raise OSError(16, "Device or resource busy")


def test_an_absolute_link_into_the_folder_still_leads_there(
    engines: Engines, store: Bucket, folder: Path
) -> None:
    job = after(engines, store, folder)
    (folder / "step-10").write_bytes(b"10")
    (folder / "latest").symlink_to(folder / "step-10")
    (folder / "newest").symlink_to(folder / "latest")
    (folder / "run").mkdir()
    (folder / "run" / "log").write_bytes(b"log")
    (folder / "current").symlink_to(folder / "run")
    (folder / "dangling").symlink_to(folder / "step-20")
    job.stage()
    job.finalize()
    assert store.contents() == {
        "out/step-10": b"10",
        "out/latest": b"10",
        "out/newest": b"10",
        "out/run/log": b"log",
        "out/current/log": b"log",
    }


def test_an_output_that_leads_out_of_its_folder_is_refused_rather_than_left_out(
    engines: Engines, store: Bucket, folder: Path
) -> None:
    job = after(engines, store, folder)
    (folder / "stolen").symlink_to("/etc/passwd")
    with pytest.raises(SyncError, match="leads out of its folder"):
        job.stage()
    assert store.contents() == {}


def test_a_copy_that_lies_in_a_folder_of_a_job_outlives_the_emptying_of_it(
    engines: Engines, store: Bucket, folder: Path
) -> None:
    outer = folder.parent / "outer"
    inner = outer / "out"
    job = after(engines, store, inner)
    (inner / "result").write_bytes(b"mine")
    job.stage()
    # The next job of the node names the folder that the copy of this one lies in.
    following = engines.job(Sync(after=(up(store.name, "next/", outer),)))
    (outer / "other").write_bytes(b"other")
    following.stage()
    following.finalize()
    following.clean()
    job.finalize()
    job.clean()
    assert store.contents() == {"out/result": b"mine", "next/other": b"other"}
    assert tree(outer) == {}


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize(
    "rule",
    [
        times(2, RESET, is_part),
        times(2, error(503, "SlowDown"), is_put),
        times(2, error(400, "RequestTimeout"), is_part),
        times(1, RESET_AFTER, is_complete),
        times(1, error(500, "InternalError"), is_complete),
    ],
    ids=["reset", "slow-down", "timeout", "lost-answer", "failed-complete"],
)
def test_passing_faults_are_retried(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy, rule: Rule
) -> None:
    files = {"big": os.urandom(3 * PART + 7), "small": b"s"}
    job = after(engines, store, folder)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    job.stage()
    proxy.rule = rule
    job.finalize()
    assert store.contents() == {f"out/{name}": data for name, data in files.items()}
    assert store.multipart_uploads() == []


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize(
    "rule",
    [
        times(1000, error(403, "AccessDenied"), is_part),
        times(1000, error(403, "AccessDenied"), is_complete),
        times(1000, error(503, "SlowDown"), is_part),
    ],
    ids=["part", "complete", "slow-down"],
)
def test_a_lasting_fault_fails_and_keeps_the_copy_until_clean(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy, rule: Rule
) -> None:
    job = after(engines, store, folder)
    (folder / "x").write_bytes(os.urandom(2 * PART))
    job.stage()
    proxy.rule = rule
    with pytest.raises(SyncError, match="out/x"):
        job.finalize()
    assert store.names() == set()
    assert store.multipart_uploads() == []
    assert len(hidden(engines.home)) == 1
    job.clean()
    assert hidden(engines.home) == []


def test_a_missing_bucket_is_an_error_at_once(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    proxy.rule = lambda request: error(404, "NoSuchBucket")  # this server makes buckets as they are named
    job = after(engines, store, folder)
    (folder / "x").write_bytes(b"1")
    job.stage()
    with pytest.raises(SyncError, match=r"out/x.*NoSuchBucket"):
        job.finalize()
    assert len(proxy.requests) == 1


def test_an_object_that_is_not_there_any_more_is_noticed(
    engines: Engines, store: Bucket, folder: Path
) -> None:
    job = engines.job(Sync(during=(up(store.name, "ck/", folder),), after=(up(store.name, "out/", folder),)))
    job.watch()
    (folder / "x").write_bytes(b"1")
    job.drain()
    job.stage()
    store.client.delete_object(Bucket=store.name, Key="ck/x")
    with pytest.raises(SyncError, match="ck/x"):
        job.finalize()
    store.put("ck/x", b"another")
    with pytest.raises(SyncError, match="ck/x"):
        job.finalize()


def test_abandon_during_the_final_upload_stores_nothing_more(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    job = after(engines, store, folder)
    (folder / "big").write_bytes(os.urandom(6 * PART))
    job.stage()
    lock, abandoned = threading.Lock(), threading.Event()

    def rule(request: Request) -> None:
        with lock:
            if is_part(request) and not abandoned.is_set():
                job.abandon()
                abandoned.set()

    proxy.rule = rule
    with pytest.raises(CanceledTransfer):
        job.finalize()
    job.clean()
    assert store.names() == set()
    assert store.multipart_uploads() == []
    assert hidden(engines.home) == []


def test_a_lost_lease_stops_the_upload_before_it_becomes_visible(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    held = threading.Event()
    held.set()
    job = after(engines, store, folder, may_write=held.is_set)
    (folder / "big").write_bytes(os.urandom(2 * PART))
    job.stage()

    def rule(request: Request) -> Answer | None:
        if is_part(request):
            held.clear()
        return None

    proxy.rule = rule
    with pytest.raises(CanceledTransfer):
        job.finalize()
    job.clean()
    assert store.names() == set()
    assert store.multipart_uploads() == []
    assert not any(is_complete(request) for request in proxy.requests)


def test_a_large_output_of_one_job_does_not_hold_up_another(
    engines: Engines, store: Bucket, tmp_path: Path, proxy: FaultProxy
) -> None:
    engine = engines.engine(threads=4)
    large = engines.job(Sync(after=(up(store.name, "large/", tmp_path / "l"),)), engine=engine)
    small = engines.job(Sync(after=(up(store.name, "small/", tmp_path / "s"),)), engine=engine)
    running = engines.job(Sync(during=(up(store.name, "ck/", tmp_path / "c"),)), engine=engine)
    (tmp_path / "l" / "x").write_bytes(os.urandom(20 * PART))
    (tmp_path / "s" / "y").write_bytes(b"1")
    large.stage()
    small.stage()
    running.watch()
    may_end, began = threading.Event(), threading.Event()
    sent = []

    def rule(request: Request) -> None:
        if "/large/" in request.path and is_part(request):
            sent.append(request)
            if len(sent) > 4:
                began.set()
                may_end.wait(0.2)  # a slow store: the other jobs' work is queued behind these parts

    proxy.rule = rule
    order: list[str] = []
    threads = [
        threading.Thread(target=lambda: (large.finalize(), order.append("large"))),
        threading.Thread(target=lambda: (began.wait(), small.finalize(), order.append("small"))),
        threading.Thread(
            target=lambda: (
                began.wait(),
                (tmp_path / "c" / "z").write_bytes(b"2"),
                running.drain(),
                order.append("checkpoint"),
            )
        ),
    ]
    for thread in threads:
        thread.start()
    for thread in threads[1:]:
        thread.join(60)
    may_end.set()
    threads[0].join(60)
    assert order[-1] == "large"
    assert store.names() == {"large/x", "small/y", "ck/z"}
