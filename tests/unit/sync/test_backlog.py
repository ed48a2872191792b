"""While the store is slow: what waits is told, the newest goes, and checkpoints go before outputs."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from kelpie.job import Sync, from_iso
from kelpie_worker.state import StateFile
from kelpie_worker.sync.backlog import Backlog
from kelpie_worker.sync.tracker import Tracker
from kelpie_worker.sync.tree import Snapshot
from tests.fault_proxy import FaultProxy, Request, is_part, is_put
from tests.unit.sync.conftest import PART, Bucket, Engines, up
from tests.waiting import wait_until


class SlowStore:
    """Holds requests that store something until they are let go."""

    def __init__(self, proxy: FaultProxy, where: str = "") -> None:
        self._where = where
        self._go = threading.Event()
        self.held: list[Request] = []
        proxy.rule = self._rule

    def _rule(self, request: Request) -> None:
        if self._where in request.path and (is_put(request) or is_part(request)):
            self.held.append(request)
            self._go.wait(30)

    def let_go(self) -> None:
        self._go.set()


@pytest.fixture
def state(tmp_path: Path) -> Any:
    state = StateFile(tmp_path / "state.json")
    state.open()
    yield state
    state.close()


def backlog(state: StateFile) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(state.path.read_text())["jobs"][0]["uploadBacklog"]
    return told


NOTHING = {"files": 0, "bytes": 0, "oldestChange": None}


def test_the_state_file_tells_what_is_not_stored_yet(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy, state: StateFile
) -> None:
    slow = SlowStore(proxy)
    job = engines.job(
        Sync(during=(up(store.name, "ck/", folder),), after=(up(store.name, "out/", folder),)),
        engine=engines.engine(state),
        id="job",
    )
    state.job_started("job")
    state.follow_backlog("job", lambda: job.backlog)
    job.watch()
    assert backlog(state) == NOTHING
    began_ms = int(time.time() * 1000)
    for number in range(50):  # more than can be on their way at once
        (folder / str(number)).write_bytes(b"x" * 100)
    wait_until(lambda: (backlog(state)["files"], backlog(state)["bytes"]) == (50, 5000), "all are told of")
    with (folder / "49").open("ab") as file:
        file.write(b"x" * 1000)
    wait_until(lambda: (backlog(state)["files"], backlog(state)["bytes"]) == (50, 6000), "a file that grew")
    oldest_ms = from_iso(backlog(state)["oldestChange"])
    assert oldest_ms is not None
    assert began_ms - 100 <= oldest_ms <= int(time.time() * 1000)
    slow.let_go()
    job.drain()
    wait_until(lambda: backlog(state) == NOTHING, "all is stored")
    slow = SlowStore(proxy)
    job.stage()
    wait_until(lambda: backlog(state)["bytes"] == 6000, "outputs wait too")
    finalizing = threading.Thread(target=job.finalize)
    finalizing.start()
    wait_until(lambda: slow.held, "they are on their way")
    assert backlog(state)["files"] == 50
    slow.let_go()
    finalizing.join()
    wait_until(lambda: backlog(state) == NOTHING, "all is stored")


def test_a_job_that_is_abandoned_leaves_no_backlog(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    slow = SlowStore(proxy)
    job = engines.job(Sync(during=(up(store.name, "ck/", folder),)))
    job.watch()
    (folder / "x").write_bytes(b"x")
    wait_until(lambda: slow.held, "it is on its way")
    job.abandon()
    assert job.backlog == Backlog()
    slow.let_go()
    job.clean()


def test_of_many_versions_written_during_an_upload_only_the_newest_follows(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    engines.probed(store.name)
    slow = SlowStore(proxy)
    job = engines.job(Sync(during=(up(store.name, "ck/", folder),)))
    job.watch()
    (folder / "x").write_bytes(b"1")
    wait_until(lambda: slow.held, "the first version is on its way")
    for size in range(2, 30):
        (folder / "x").write_bytes(b"x" * size)
    slow.let_go()
    job.drain()
    assert [request.size for request in slow.held] == [1, 29]
    assert store.get("ck/x") == b"x" * 29


def test_checkpoints_of_the_running_job_pass_the_outputs_of_the_one_before(
    engines: Engines, store: Bucket, tmp_path: Path, proxy: FaultProxy
) -> None:
    before = engines.job(Sync(after=(up(store.name, "out/", tmp_path / "before"),)))
    (tmp_path / "before" / "big").write_bytes(b"x" * 30 * PART)
    for number in range(40):
        (tmp_path / "before" / f"small {number}").write_bytes(b"x")
    before.stage()
    slow = SlowStore(proxy, "/out/")
    finalizing = threading.Thread(target=before.finalize)
    finalizing.start()
    try:
        wait_until(lambda: len(slow.held) >= 4, "the outputs fill the way to the store")
        running = engines.job(Sync(during=(up(store.name, "ck/", tmp_path / "running"),)))
        running.watch()
        (tmp_path / "running" / "ck").write_bytes(b"c" * 3 * PART)
        wait_until(lambda: "ck/ck" in store.names(), "the checkpoint is stored meanwhile")
        assert not any(key.startswith("out/") for key in store.names())
        running.drain()
    finally:
        slow.let_go()
        finalizing.join()
    assert len(store.names()) == 42


def test_the_tracker_counts_files_bytes_and_age() -> None:
    tracker = Tracker(debounce_s=1.0, max_wait_s=5.0, window=2, wake=lambda: None)
    assert tracker.backlog == Backlog(0, 0, None)
    for number in range(4):
        tracker.touch(str(number), float(number), size=10)
    assert tracker.backlog == Backlog(4, 40, 0.0)
    assert [name for name, _ in tracker.take(10.0)] == ["0", "1"]
    assert tracker.next_due() is None  # until one of them has ended
    tracker.begun("0", 15, 10.0)
    assert tracker.backlog == Backlog(4, 45, 0.0)
    tracker.stored("0", Snapshot(15, 1, 1))
    tracker.finish("0", 11.0)
    tracker.touch("1", 11.0, size=99)  # while it is looked at
    assert tracker.backlog == Backlog(3, 119, 1.0)
    tracker.postpone("1", 11.0, 60.0)
    assert [name for name, _ in tracker.take(11.0)] == ["1", "2"]  # its event came after its look
    for name in ("1", "2"):
        tracker.finish(name, 12.0)
    assert [name for name, _ in tracker.take(12.0)] == ["3"]
    tracker.finish("3", 12.0)
    assert tracker.backlog == Backlog(0, 0, None)
    assert tracker.idle


def test_a_close_ends_the_wait_for_a_writer_and_no_other_event_does() -> None:
    tracker = Tracker(debounce_s=1.0, max_wait_s=5.0, wake=lambda: None)
    tracker.touch("x", 0.0)
    tracker.take(0.0)
    tracker.postpone("x", 0.0, 3.0)
    tracker.touch("x", 1.0)
    assert (tracker.take(1.0), tracker.next_due()) == ([], 3.0)
    tracker.touch("x", 1.5, closed=True)
    assert [name for name, _ in tracker.take(1.5)] == ["x"]
    tracker.begun("x", 1, 1.5)
    tracker.finish("x", 1.6, again=True)
    tracker.touch("x", 2.0, closed=True)
    assert (tracker.take(2.9), tracker.next_due()) == ([], 3.0)  # it was uploaded a moment ago
    assert [name for name, _ in tracker.take(3.0)] == ["x"]
