"""The `during` entries: what happens in the folder while the command runs is in the bucket afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kelpie.job import Sync
from kelpie_worker.sync import CanceledTransfer, JobSync, SyncError, watcher
from tests.fault_proxy import FaultProxy, Request, error, is_part, is_put, times
from tests.unit.sync.conftest import PART, Bucket, Engines, down, tree, up
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def no_rescans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "RESCAN_S", 1000.0)  # which would hide that an event was lost


def during(
    engines: Engines, store: Bucket, folder: Path | str, pattern: str | None = None, **job: object
) -> JobSync:
    return engines.job(Sync(during=(up(store.name, "ck/", folder, pattern),)), **job)


def stored(store: Bucket) -> dict[str, bytes]:
    return {key.removeprefix("ck/"): data for key, data in store.contents().items()}


def test_a_closed_file_is_uploaded_while_the_command_runs(
    engines: Engines, store: Bucket, folder: Path
) -> None:
    job = during(engines, store, folder, id="the-job", attempt=7)
    job.watch()
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "sub" / "deep" / "x").write_bytes(b"1")
    (folder / "big").write_bytes(os.urandom(2 * PART + 3))
    wait_until(lambda: store.names() == {"ck/sub/deep/x", "ck/big"}, "both are in the bucket")
    job.drain()
    assert stored(store) == tree(folder)
    for key in store.names():
        metadata = store.metadata(key)
        assert metadata["kelpie-job"] == "the-job"
        assert metadata["kelpie-attempt"] == "7"
        assert metadata["kelpie-mtime"].isdigit()


def test_a_rewritten_file_is_uploaded_again_and_its_last_version_stays(
    engines: Engines, store: Bucket, folder: Path
) -> None:
    job = during(engines, store, folder)
    job.watch()
    for number in range(200):
        (folder / "state").write_bytes(str(number).zfill(4).encode())  # same size every time
    job.drain()
    assert stored(store) == {"state": b"0199"}


def test_a_checkpoint_written_right_before_the_end_arrives(
    engines: Engines, store: Bucket, folder: Path
) -> None:
    for round_ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        job = during(engines, store, folder, id=f"job-{round_}")
        job.watch()
        (folder / "last").write_bytes(f"round {round_}".encode())
        job.drain()
        assert store.get("ck/last") == f"round {round_}".encode()
        job.clean()


def test_files_there_before_the_watch_are_uploaded_unless_they_were_downloaded(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    store.put("ck/downloaded", b"d")
    store.put("ck/changed", b"c")
    job = engines.job(
        Sync(before=(down(store.name, "ck/", folder),), during=(up(store.name, "ck/", folder),))
    )
    (folder / "early").write_bytes(b"e")
    job.download()
    (folder / "changed").write_bytes(b"changed before the watch")
    job.watch()
    job.drain()
    assert stored(store) == {"downloaded": b"d", "changed": b"changed before the watch", "early": b"e"}
    puts = [request.path for request in proxy.requests if is_put(request)]
    assert not any("downloaded" in path for path in puts)


def test_a_folder_named_relatively_or_upwards_works(
    engines: Engines, store: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    job = engines.job(Sync(during=(up(store.name, "a/", "relative"), up(store.name, "b/", "../up/wards"))))
    job.watch()
    (work / "relative" / "x").write_bytes(b"1")
    (tmp_path / "up" / "wards" / "y").write_bytes(b"2")
    job.drain()
    assert store.contents() == {"a/x": b"1", "b/y": b"2"}


def test_new_folders_and_folders_moved_in_leave_no_gap(
    engines: Engines, store: Bucket, folder: Path, tmp_path: Path
) -> None:
    job = during(engines, store, folder)
    job.watch()
    for number in range(20):
        place = folder / f"new-{number}" / "a" / "b"
        place.mkdir(parents=True)
        (place / "x").write_bytes(b"x")
        other = tmp_path / f"built-{number}"
        (other / "c").mkdir(parents=True)
        (other / "c" / "y").write_bytes(b"y")
        other.rename(folder / f"moved-{number}")
    expected = {f"ck/new-{n}/a/b/x" for n in range(20)} | {f"ck/moved-{n}/c/y" for n in range(20)}
    wait_until(lambda: store.names() == expected, "everything is there while the command runs")
    job.drain()


def test_a_file_kept_open_is_uploaded_when_it_has_been_quiet(
    engines: Engines, store: Bucket, folder: Path
) -> None:
    job = during(engines, store, folder)
    job.watch()
    with (folder / "log").open("wb", buffering=0) as log:
        log.write(b"first line\n")
        wait_until(lambda: "ck/log" in store.names(), "a quiet open file is stored")
        log.write(b"second line\n")
    job.drain()
    assert stored(store) == {"log": b"first line\nsecond line\n"}


def test_a_file_rewritten_during_its_upload_is_never_stored_torn(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    path = folder / "x"
    seen: list[bytes] = []
    lock = threading.Lock()

    def rule(request: Request) -> None:
        with lock:
            if is_part(request) and not seen:
                seen.append(b"")
                path.write_bytes(b"n" * (3 * PART))

    proxy.rule = rule
    job = during(engines, store, folder)
    job.watch()
    path.write_bytes(b"o" * (3 * PART))
    job.drain()
    assert stored(store) == {"x": b"n" * (3 * PART)}
    completed = [
        request for request in proxy.requests if request.method == "POST" and "uploadId" in request.path
    ]
    assert len(completed) == 1
    assert store.multipart_uploads() == []


def test_a_file_replaced_during_its_upload_is_finished_and_followed_by_one_more(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    path, spare = folder / "x", engines.home / "spare"
    spare.write_bytes(b"n" * (3 * PART))
    started, go_on = threading.Event(), threading.Event()

    def rule(request: Request) -> None:
        if is_part(request):
            started.set()
            go_on.wait(20)

    proxy.rule = rule
    job = during(engines, store, folder)
    job.watch()
    path.write_bytes(b"o" * (3 * PART))
    assert started.wait(20)
    spare.rename(path)
    go_on.set()
    job.drain()
    assert stored(store) == {"x": b"n" * (3 * PART)}
    completed = [
        request for request in proxy.requests if request.method == "POST" and "uploadId" in request.path
    ]
    assert len(completed) == 2


def test_with_ignore_a_change_during_an_upload_leads_to_nothing(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    path = folder / "x"
    changed = threading.Event()

    def rule(request: Request) -> None:
        if is_part(request) and not changed.is_set():
            changed.set()
            path.write_bytes(b"n" * (2 * PART))

    proxy.rule = rule
    job = during(engines, store, folder, engine=engines.engine(changed_during_upload="ignore"))
    job.watch()
    path.write_bytes(b"o" * (2 * PART))
    wait_until(lambda: store.names() == {"ck/x"}, "the upload ends")
    job.drain()
    creates = [
        request for request in proxy.requests if request.method == "POST" and "uploads" in request.path
    ]
    assert len(creates) == 1


def test_deletions_and_renames_are_mirrored_after_their_replacement_is_durable(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    store.put("ck/downloaded", b"d")
    store.put("ck/foreign", b"nobody here made or fetched this")
    job = engines.job(
        Sync(
            before=(down(store.name, "ck/", folder, "^downloaded$"),), during=(up(store.name, "ck/", folder),)
        )
    )
    job.download()
    job.watch()
    (folder / "old").write_bytes(b"1" * (2 * PART))
    (folder / "kept").write_bytes(b"2")
    wait_until(lambda: {"ck/old", "ck/kept"} <= store.names(), "both are stored")
    order = len(proxy.requests)
    (folder / "old").rename(folder / "new")
    (folder / "downloaded").unlink()
    job.drain()
    assert store.names() == {"ck/new", "ck/kept", "ck/foreign"}
    later = proxy.requests[order:]
    completed = next(i for i, r in enumerate(later) if r.method == "POST" and "uploadId" in r.path)
    deleted = next(
        i for i, r in enumerate(later) if r.method == "DELETE" and r.path.startswith(f"/{store.name}/ck/old")
    )
    assert completed < deleted


def test_emptying_the_folders_after_the_job_deletes_nothing_in_the_bucket(
    engines: Engines, store: Bucket, folder: Path
) -> None:
    job = during(engines, store, folder)
    job.watch()
    (folder / "x").write_bytes(b"1")
    job.drain()
    job.clean()
    assert tree(folder) == {}
    assert folder.is_dir()
    assert store.names() == {"ck/x"}
    job.clean()


def test_links_out_of_the_folder_and_special_files_are_not_uploaded(
    engines: Engines, store: Bucket, folder: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    job = during(engines, store, folder)
    job.watch()
    (folder / "environ").symlink_to("/proc/self/environ")
    (folder / "secret").symlink_to(secret)
    (folder / "outside").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    (folder / "real").write_bytes(b"r")
    (folder / "latest").symlink_to("real")
    (folder / "nowhere").symlink_to("gone")
    job.drain()
    assert stored(store) == {"real": b"r", "latest": b"r"}


def test_the_pattern_selects_what_is_uploaded(engines: Engines, store: Bucket, folder: Path) -> None:
    job = during(engines, store, folder, r"\.ckpt$")
    job.watch()
    (folder / "a.ckpt").write_bytes(b"1")
    (folder / "a.tmp").write_bytes(b"2")
    job.drain()
    assert stored(store) == {"a.ckpt": b"1"}


@pytest.mark.usefixtures("quick_retries")
def test_an_upload_that_fails_while_the_command_runs_is_tried_again_at_the_end(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    proxy.rule = times(2, error(503, "SlowDown"), is_put)
    job = during(engines, store, folder, engine=engines.engine(max_retries=2))
    job.watch()
    (folder / "x").write_bytes(b"1")
    wait_until(lambda: job._mirrors[0].tracker.failures, "it has failed for now")
    job.drain()
    assert stored(store) == {"x": b"1"}


def test_a_bucket_that_refuses_writes_is_an_error_that_names_the_object(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    proxy.rule = times(1000, error(403, "AccessDenied"), is_put)
    job = during(engines, store, folder)
    job.watch()
    (folder / "x").write_bytes(b"1")
    with pytest.raises(SyncError, match=r"ck/x.*AccessDenied"):
        job.drain()


def test_abandon_in_the_middle_of_a_multipart_upload_leaves_nothing_in_the_bucket(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    started, go_on = threading.Event(), threading.Event()

    def rule(request: Request) -> None:
        if is_part(request):
            started.set()
            go_on.wait(20)

    proxy.rule = rule
    job = during(engines, store, folder)
    job.watch()
    (folder / "x").write_bytes(os.urandom(6 * PART))
    assert started.wait(20)
    job.abandon()
    go_on.set()
    (folder / "y").write_bytes(b"too late")
    with pytest.raises(CanceledTransfer):
        job.drain()
    job.clean()
    assert not job.busy
    assert store.names() == set()
    assert store.multipart_uploads() == []


def test_nothing_is_written_once_the_lease_is_not_confirmed(
    engines: Engines, store: Bucket, folder: Path
) -> None:
    held = threading.Event()
    held.set()
    job = during(engines, store, folder, may_write=held.is_set)
    job.watch()
    (folder / "x").write_bytes(b"1")
    wait_until(lambda: store.names() == {"ck/x"}, "the holder writes")
    held.clear()
    (folder / "y").write_bytes(b"2")
    with pytest.raises(CanceledTransfer):
        job.drain()
    job.clean()
    assert store.names() == {"ck/x"}


def test_asking_for_writers_disturbs_neither_them_nor_us(tmp_path: Path) -> None:
    # in a process of its own: a wrong signal would end it
    script = f"""
import os, threading
from kelpie_worker.sync.writers import Writers, writers_of
path = {str(tmp_path / "x")!r}
open(path, "w").close()
stop = threading.Event()
def rewrite():
    while not stop.is_set():
        open(path, "w").close()
threads = [threading.Thread(target=rewrite) for _ in range(2)]
for thread in threads: thread.start()
seen = set()
for _ in range(20000):
    fd = os.open(path, os.O_RDONLY); seen.add(writers_of(fd)); os.close(fd)
stop.set()
for thread in threads: thread.join()
with open(path, "w"):
    fd = os.open(path, os.O_RDONLY); assert writers_of(fd) is Writers.SOME
fd = os.open(path, os.O_RDONLY); assert writers_of(fd) is Writers.NONE
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=100)
    assert done.returncode == 0, signal.Signals(-done.returncode) if done.returncode < 0 else done.returncode
