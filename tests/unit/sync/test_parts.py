"""The small parts of the engine, each by itself."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Generator
from typing import Any

import pytest

from kelpie.job import Sync
from kelpie.patterns import compile_pattern
from kelpie_worker.sync.flow import Batch, run_all
from kelpie_worker.sync.pool import Priority, TransferPool
from kelpie_worker.sync.tracker import Tracker
from kelpie_worker.sync.tree import Snapshot
from tests.unit.sync.conftest import Engines


def test_importing_the_engine_loads_no_storage_client_and_no_watcher() -> None:
    script = (
        "import sys; import kelpie_worker.sync as s; from kelpie_worker.sync.settings import SyncSettings;"
        "from kelpie_worker.leased import LeasedJob;"
        "e = s.SyncEngine(SyncSettings(), s.NullObserver()); j = e.prepare(LeasedJob('i', 1, 'true'));"
        "j.download(); j.watch(); j.drain(); j.stage(); j.finalize(); j.clean(); e.close();"
        "print([m for m in 'boto3 botocore watchdog re2 redis pydantic'.split() if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (r"\.ckpt$", "a/b.ckpt", True),
        (r"\.ckpt$", "a/b.ckpt.tmp", False),
        (r"^\u0061\x62\/", "ab/c", True),
        (r"\u{1F600}", "x😀", True),
        (r"(?<step>\d+)", "step-12", True),
        (r"a[^]b", "a\nb", True),
        (r"[]", "anything", False),
        (r"\cJ", "a\nb", True),
        (r"\\u0041", r"\u0041", True),
        (r"(a+)+$", "a" * 5000 + "!", False),
    ],
)
def test_patterns_mean_what_they_mean_in_ecmascript(pattern: str, text: str, found: bool) -> None:
    assert (compile_pattern(pattern).search(text) is not None) is found


def test_a_flow_gets_its_results_in_order_and_its_failures_at_the_yield() -> None:
    pool = TransferPool(3)
    ended: list[Any] = []

    def flow(number: int) -> Generator[Batch, list[Any], None]:
        results = yield Batch([lambda n=n: n * number for n in range(20)], 4)
        try:
            yield Batch([lambda: 1 // 0, lambda: 1], 1)
        except ZeroDivisionError:
            empty = yield Batch([], 1)
            ended.append((results, empty))

    run_all(pool.lane(Priority.OUTPUT), (flow(number) for number in range(5)), width=2)
    pool.close(10)
    assert sorted(ended) == [([n * number for n in range(20)], []) for number in range(5)]


def test_after_a_failure_no_more_flows_are_begun_and_it_is_raised() -> None:
    pool = TransferPool(2)
    begun: list[int] = []

    def flow(number: int) -> Generator[Batch, list[Any], None]:
        begun.append(number)
        yield Batch([lambda: 1 // (number - 3)], 1)

    with pytest.raises(ZeroDivisionError):
        run_all(pool.lane(Priority.OUTPUT), (flow(number) for number in range(1000)), width=2)
    pool.close(10)
    assert len(begun) < 20


def test_more_urgent_work_goes_first_and_finds_a_thread_kept_free() -> None:
    pool = TransferPool(2)
    hold, order = threading.Event(), []
    final, urgent = pool.lane(Priority.OUTPUT), pool.lane(Priority.CHECKPOINT)
    for number in range(3):
        final.submit(lambda number=number: (hold.wait(20), order.append(f"output {number}")))
    done = threading.Event()
    urgent.submit(lambda: (order.append("checkpoint"), done.set()))
    assert done.wait(20)
    hold.set()
    pool.close(20)
    assert order == ["checkpoint", "output 0", "output 1", "output 2"]


def test_a_change_during_an_upload_is_followed_by_exactly_one_more_look() -> None:
    tracker = Tracker(debounce_s=1.0, max_wait_s=5.0, wake=lambda: None)
    tracker.touch("x", 0.0)
    assert [name for name, _ in tracker.take(0.0)] == ["x"]
    tracker.begun("x", 1, 0.0)
    for _ in range(5):
        tracker.touch("x", 0.1)
    assert tracker.take(0.2) == []
    tracker.stored("x", Snapshot(1, 1, 1))
    tracker.finish("x", 0.3)
    assert not tracker.idle
    assert tracker.take(1.0) == []  # collected for the length of the debounce
    assert [name for name, _ in tracker.take(1.3)] == ["x"]
    tracker.finish("x", 1.3)
    assert tracker.idle


def test_a_name_that_never_comes_to_rest_waits_no_longer_than_the_limit() -> None:
    tracker = Tracker(debounce_s=1.0, max_wait_s=5.0, wake=lambda: None)
    tracker.touch("x", 0.0)
    tracker.take(0.0)
    tracker.begun("x", 1, 0.0)
    tracker.finish("x", 0.0)
    now = 0.1
    while not (taken := tracker.take(now)):
        tracker.touch("x", now)
        now += 0.5
        assert now < 10
    assert taken
    assert now >= 5.0


def test_a_deletion_waits_for_what_was_pending_when_it_was_noticed() -> None:
    tracker = Tracker(debounce_s=0.0, max_wait_s=0.0, wake=lambda: None)
    tracker.adopt("old", Snapshot(1, 1, 1), owned=True)
    tracker.adopt("foreign", Snapshot(1, 1, 1), owned=False)
    for name in ("new", "old", "foreign"):
        tracker.touch(name, 0.0)
    for name, _ in tracker.take(0.0):
        if name != "new":
            tracker.vanished(name)
            tracker.finish(name, 0.0)
    assert tracker.take_deletions() == []
    tracker.finish("new", 0.0)
    tracker.touch("later", 0.0)  # what came after it need not be waited for
    assert tracker.take_deletions() == ["old"]


def test_a_job_without_data_costs_nothing(engines: Engines) -> None:
    job = engines.job(Sync())
    job.download()
    job.watch()
    job.drain()
    job.stage()
    job.finalize()
    assert not job.busy
    job.clean()
