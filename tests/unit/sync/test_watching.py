"""What inotify cannot tell, or tells badly: no file is lost, and none is stored half-written.

Nothing is found here by the periodic scan, which would hide that the path under test is broken.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kelpie.embedded.s3 import S3Server
from kelpie.job import Sync
from kelpie_worker.sync import JobSync, mirror, watcher
from kelpie_worker.sync.tree import Snapshot
from kelpie_worker.sync.watcher import Watcher
from kelpie_worker.sync.writers import Writers, is_network_mount, writers_of
from tests.bench import watch
from tests.bench.crew import ROOT
from tests.fault_proxy import FaultProxy, is_put
from tests.unit.sync.conftest import Bucket, Engines, tree, up
from tests.waiting import wait_until

NEVER_S = 1000.0


@pytest.fixture(autouse=True)
def no_rescans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "RESCAN_S", NEVER_S)


def during(
    engines: Engines, store: Bucket, folder: Path, pattern: str | None = None, **settings: Any
) -> JobSync:
    engine = engines.engine(**settings) if settings else None
    return engines.job(Sync(during=(up(store.name, "", folder, pattern),)), engine=engine)


def digests(store: Bucket) -> dict[str, str]:
    """Key → MD5, as the store says it of objects that were sent in one piece."""
    pages = store.client.get_paginator("list_objects_v2").paginate(Bucket=store.name)
    return {each["Key"]: each["ETag"].strip('"') for page in pages for each in page.get("Contents", ())}


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()  # noqa: S324  (what S3 calls ETag)


def test_of_a_storm_every_last_version_is_in_the_bucket(
    engines: Engines, store: Bucket, folder: Path
) -> None:
    job = during(engines, store, folder)
    job.watch()
    for number in range(3000):
        place = folder / f"d{number // 100}"
        if number % 100 == 0:
            place.mkdir()
        (place / f"f{number}").write_bytes(b"first %d" % number)
        if number % 3 == 0:
            old = number * 7919 % (number + 1)
            (folder / f"d{old // 100}" / f"f{old}").write_bytes(b"later %d" % number)
    job.drain()
    assert digests(store) == {name: md5(data) for name, data in tree(folder).items()}


def test_folders_of_folders_leave_no_gap(engines: Engines, store: Bucket, folder: Path) -> None:
    job = during(engines, store, folder)
    job.watch()
    for number in range(10):
        place = folder / f"n{number}"
        for depth in range(8):
            place = place / f"d{depth}"
            place.mkdir(parents=True)
            (place / "f").write_bytes(b"%d %d" % (number, depth))
    wait_until(lambda: len(store.names()) == 80, "everything is there while the command runs")
    job.drain()
    assert store.contents() == tree(folder)


def test_a_file_that_its_writer_keeps_open_is_not_stored_half_written(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    engines.probed(store.name)
    job = during(engines, store, folder, watcher_stability_ms=60_000)
    job.watch()
    with (folder / "big").open("wb", buffering=0) as big, (folder / "mapped").open("w+b") as file:
        file.truncate(100)
        mapped = mmap.mmap(file.fileno(), 100)
        file.close()
        for part in (b"1", b"2"):
            big.write(part * 1000)
            (folder / f"marker {part.decode()}").write_bytes(b"m")
            wait_until(lambda: f"marker {part.decode()}" in store.names(), "a later file is stored")  # noqa: B023
        assert store.names() == {"marker 1", "marker 2"}
        mapped[:] = b"m" * 100
        mapped.close()
    wait_until(lambda: {"big", "mapped"} < store.names(), "the closed and unmapped files are stored at once")
    job.drain()
    assert store.contents() == tree(folder)
    assert sum(is_put(request) for request in proxy.requests) == 4


def test_two_changes_within_one_tick_of_the_clock_are_two(
    engines: Engines, store: Bucket, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Snapshot] = []
    ticked = threading.Event()

    def ambiguous_s(self: Snapshot) -> float:
        looks.append(self)
        return 0.0 if ticked.is_set() else 0.001

    monkeypatch.setattr(Snapshot, "ambiguous_s", ambiguous_s)
    job = during(engines, store, folder)
    job.watch()
    path = folder / "x"
    path.write_bytes(b"one")
    wait_until(lambda: looks and looks[-1].size == 3, "it is looked at")
    before, one = path.stat(), looks[-1]
    path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as kernels before 6.13 leave it
    seen = len(looks)
    wait_until(lambda: len(looks) > seen, "and again")
    assert looks[-1] == one
    assert store.names() == set()
    ticked.set()
    job.drain()
    assert store.contents() == {"x": b"two"}


def test_a_change_is_ambiguous_until_the_clock_has_moved_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = 1_700_000_000_500_000_000
    monkeypatch.setattr(time, "clock_gettime_ns", lambda clock: now_ns)
    monkeypatch.setattr(time, "time", lambda: now_ns / 1e9 + 0.001)  # the finer clock is ahead

    def ambiguous_s(mtime_ns: int) -> float:
        return Snapshot(1, mtime_ns, 1).ambiguous_s()

    tick_s = time.clock_getres(5)
    assert ambiguous_s(now_ns) == pytest.approx(max(tick_s - 0.001, 0) + 0.0002, abs=1e-4)
    assert 0 < ambiguous_s(now_ns + 500_000) <= tick_s + 0.001  # a kernel that stamps finer than its ticks
    assert ambiguous_s(now_ns - 1) == 0
    assert ambiguous_s(now_ns + 3_600_000_000_000) == 0  # set by hand: never reached
    whole_ns = now_ns - 500_000_000  # a file system that keeps whole seconds, even ones on FAT
    assert ambiguous_s(whole_ns) == pytest.approx(1.5)
    assert ambiguous_s(whole_ns - 2_000_000_000) == 0


# ---- where inotify fails


def test_what_an_overflow_lost_is_found(engines: Engines, store: Bucket, folder: Path) -> None:
    job = during(engines, store, folder, "wanted")
    job.watch()
    (folder / "wanted 1").write_bytes(b"1")
    wait_until(lambda: store.names() == {"wanted 1"}, "events arrive")
    room = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    with _deaf(job._watcher):
        for _ in range(room // 2 + 2000):  # two files in turns: equal events in a row are merged
            for name in ("noise", "din"):
                os.close(os.open(folder / name, os.O_CREAT | os.O_WRONLY))
        (folder / "wanted 2").write_bytes(b"2")
        (folder / "new").mkdir()
        (folder / "new" / "wanted 3").write_bytes(b"3")
    wait_until(lambda: {"wanted 2", "new/wanted 3"} < store.names(), "the scan after the overflow")
    (folder / "new" / "wanted 4").write_bytes(b"4")
    wait_until(lambda: "new/wanted 4" in store.names(), "and the folder is watched from then on")
    job.drain()


@contextmanager
def _deaf(watcher: Watcher) -> Iterator[None]:
    """Nobody reads the kernel's queue meanwhile."""
    assert watcher._observer is not None
    (emitter,) = watcher._observer.emitters
    with emitter._inotify._lock:  # type: ignore[attr-defined]
        yield


def limited(server: S3Server, store: Bucket, folder: Path, temp_dir: Path, limit: str) -> Any:
    """A watching process whose user may have no more than so much of inotify."""
    code = (
        f"from kelpie_worker.sync import watcher; watcher.RESCAN_S, watcher.POLL_S = {NEVER_S}, 0.2\n"
        "from tests.bench import watched; watched.main()"
    )
    return subprocess.Popen(
        [
            *("unshare", "--user", "--map-root-user", "sh", "-c", f'{limit}; exec "$@"', "sh"),
            *(sys.executable, "-c", code, str(folder), store.name, str(temp_dir), "50"),
        ],
        cwd=ROOT,
        env=os.environ | server.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    "limit",
    [
        "echo 0 > /proc/sys/user/max_inotify_instances",
        "echo 0 > /proc/sys/user/max_inotify_watches",
        "echo 2 > /proc/sys/user/max_inotify_watches",
    ],
    ids=["no instance", "no watch", "too few watches"],
)
def test_a_limit_of_inotify_leads_to_polling(
    s3: S3Server, store: Bucket, engines: Engines, folder: Path, limit: str
) -> None:
    for number in range(4):
        (folder / f"d{number}").mkdir(parents=True)
    with limited(s3, store, folder, engines.temp_dir, limit) as watching:
        try:
            assert "ready" in watching.stdout.readline()
            for number in range(4):
                (folder / f"d{number}" / "x").write_bytes(b"x")
            everywhere = {f"d{number}/x" for number in range(4)}
            wait_until(lambda: store.names() == everywhere, "all are found while the command runs")
            (folder / "d3" / "x").write_bytes(b"again")
            wait_until(lambda: store.get("d3/x") == b"again", "and so are changes")
        finally:
            watching.kill()


def test_a_network_mount_is_polled_for_what_has_no_events(
    engines: Engines, store: Bucket, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "is_network_mount", lambda path: True)
    monkeypatch.setattr(watcher, "POLL_S", 0.2)
    job = during(engines, store, folder)
    (folder / "real").mkdir()
    (folder / "link").symlink_to("real")  # what is behind it makes no events under this name
    (folder / "real" / "x").write_bytes(b"1")
    job.watch()
    wait_until(lambda: store.names() == {"real/x", "link/x"}, "the first scan is over")
    (folder / "real" / "y").write_bytes(b"1")
    wait_until(lambda: "link/y" in store.names(), "the change that another machine made")
    job.drain()


def test_network_mounts_are_known_by_their_kind(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        "30 22 0:44 / /data rw shared:2 - nfs4 server:/x rw\n"
        "31 30 0:45 / /data/scratch rw - tmpfs tmpfs rw\n"
        "32 22 0:46 / /mnt/donn\u00e9es\\040mont\u00e9es rw - fuse.sshfs host: rw\n"
    )
    assert [
        path
        for path in (
            "/",
            "/data",
            "/data/x",
            "/database",
            "/data/scratch/x",
            "/mnt/donn\u00e9es mont\u00e9es/x",
        )
        if is_network_mount(path, str(mounts))
    ] == ["/data", "/data/x", "/mnt/donn\u00e9es mont\u00e9es/x"]
    assert not is_network_mount("/", str(tmp_path / "none"))


# ---- where leases fail


def test_the_kernel_tells_nothing_of_another_users_file(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setresuid(65534, 65534, 65534)
            descriptor = os.open("/etc/passwd", os.O_RDONLY)
            os._exit(list(Writers).index(writers_of(descriptor)))
        finally:
            os._exit(100)
    _, status = os.waitpid(child, 0)
    assert list(Writers)[os.waitstatus_to_exitcode(status)] is Writers.UNKNOWN


def test_without_leases_a_file_is_stored_when_its_size_and_time_are_quiet(
    engines: Engines, store: Bucket, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def refuse(descriptor: int) -> Writers:
        asked.append(descriptor)
        return Writers.UNKNOWN

    monkeypatch.setattr(mirror, "writers_of", refuse)
    job = during(engines, store, folder, watcher_stability_ms=400)
    job.watch()
    with (folder / "x").open("wb", buffering=0) as file:
        for _ in range(6):  # never quiet for as long as it takes
            seen = len(asked)
            file.write(b"x")
            wait_until(lambda: len(asked) > seen, "it is looked at")  # noqa: B023
            assert store.names() == set()
    wait_until(lambda: store.names() == {"x"}, "it has been quiet")
    job.drain()
    assert store.get("x") == b"x" * 6


# ---- the watched folder itself


@pytest.mark.parametrize("how", [shutil.rmtree, lambda folder: folder.rename(folder.with_name("old"))])
def test_a_folder_made_anew_is_watched_like_the_first(
    engines: Engines,
    store: Bucket,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: Callable[[Path], Any],
) -> None:
    monkeypatch.setattr(watcher, "POLL_S", 0.2)
    job = during(engines, store, folder)
    job.watch()
    (folder / "first").write_bytes(b"1")
    wait_until(lambda: store.names() == {"first"}, "the first folder is watched")
    for number in range(2):
        how(folder)
        folder.mkdir()  # as a rule with the inode of the one before, if that is gone
        (folder / f"y{number}").write_bytes(b"1")
        wait_until(lambda: f"y{number}" in store.names(), "the new folder is seen")  # noqa: B023
        shutil.rmtree(folder.with_name("old"), ignore_errors=True)
        wait_until(lambda: job._watcher._folders[0].watched, "and watched")
        (folder / "z").write_bytes(b"%d" % number)
        wait_until(lambda: store.names() >= {"z"} and store.get("z") == b"%d" % number, "by events")  # noqa: B023
    job.drain()


def test_a_folder_that_comes_with_links_in_it_is_searched(
    engines: Engines, store: Bucket, folder: Path, tmp_path: Path
) -> None:
    job = during(engines, store, folder)
    job.watch()
    (folder / "first").write_bytes(b"1")
    wait_until(lambda: store.names() == {"first"}, "the first scan is over")
    (tmp_path / "built" / "real").mkdir(parents=True)
    (tmp_path / "built" / "real" / "x").write_bytes(b"x")
    (tmp_path / "built" / "link").symlink_to("real")  # what is behind it has no events of this name
    (tmp_path / "built").rename(folder / "new")
    wait_until(lambda: store.names() == {"first", "new/real/x", "new/link/x"}, "all of it is found")
    job.drain()


def test_the_benchmark_of_watching_runs_to_its_end(
    s3: S3Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert watch.run("close", s3, tmp_path, rounds=2, storm_size=0, debounce_ms=50)
    assert "lost 0; torn 0; over: median" in capsys.readouterr().out


def test_an_overflow_is_told_to_no_watcher_that_has_ended(
    engines: Engines, store: Bucket, folder: Path
) -> None:
    job = during(engines, store, folder)
    job.watch()
    job.drain()
    logging.getLogger("watchdog.observers.inotify").warning("Inotify queue overflowed")
    assert job._mirrors[0].tracker.idle
