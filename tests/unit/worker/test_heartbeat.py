from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from kelpie.errors import ForbiddenError, NotFoundError, UnavailableError
from kelpie.job import HeartbeatReply, JobStatus, UploadBacklog
from kelpie.transfers import EntryTransfers, TransferReport
from kelpie_worker.heartbeat import Heartbeat
from kelpie_worker.progress_file import Said
from tests.unit.worker.doubles import MemoryQueue, shell_job
from tests.waiting import wait_until


class Case:
    """One heartbeat with a clock that a test moves."""

    def __init__(self, interval: int = 1) -> None:
        self.now = 1000.0
        self.queue = MemoryQueue()
        self.lost: list[str] = []
        self.unreachable = threading.Event()
        self.heartbeat = Heartbeat(
            self.queue,
            shell_job("true", heartbeat_interval=interval),
            structlog.get_logger(),
            on_lost=self.lost.append,
            on_unreachable=self.unreachable.set,
            clock=lambda: self.now,
        )


@pytest.fixture
def case() -> Iterator[Case]:
    case = Case()
    yield case
    case.heartbeat.stop()


def test_it_beats_at_once_and_at_least_three_times_per_interval(case: Case) -> None:
    case.heartbeat.start()
    wait_until(lambda: case.queue.beats >= 4, "beats to go on")
    assert not case.lost


def test_a_lost_beat_is_survived(case: Case) -> None:
    case.queue.errors["heartbeat"] = [UnavailableError("reset"), UnavailableError("reset")]
    case.heartbeat.start()
    wait_until(lambda: case.queue.beats >= 1, "a beat after the lost ones")
    assert not case.lost
    assert not case.unreachable.is_set()


@pytest.mark.parametrize(
    ("status", "reason", "told"),
    [
        (JobStatus.CANCELED, "canceled", "canceled"),
        (JobStatus.CANCELED, "superseded", "superseded"),
        (JobStatus.CANCELED, None, "canceled"),  # a server of Kelpie 0.5 to 0.7 gives no reason
        (JobStatus.COMPLETED, None, "completed"),
    ],
)
def test_the_queues_word_ends_the_job_once(
    case: Case, status: JobStatus, reason: str | None, told: str
) -> None:
    case.queue.status, case.queue.reason = status, reason
    case.heartbeat.start()
    wait_until(lambda: case.lost, "the loss to be told")
    assert not case.heartbeat.may_write()
    assert case.lost == [told]


def test_a_deleted_job_is_lost(case: Case) -> None:
    case.queue.down = NotFoundError("gone")
    case.heartbeat.start()
    wait_until(lambda: case.lost == ["deleted"], "the loss to be told")


@pytest.mark.parametrize("error", [UnavailableError("down"), ForbiddenError("who?")])
def test_out_of_reach_is_told_only_beyond_the_lease(case: Case, error: Exception) -> None:
    tries = threading.Event()
    case.queue.down = error
    case.heartbeat.start()
    case.now += 1.9
    tries.wait(0)
    assert case.heartbeat.may_write()
    assert not case.unreachable.is_set()
    case.now += 0.2
    wait_until(case.unreachable.is_set, "the end of the lease to be noticed")
    assert not case.heartbeat.may_write()
    assert not case.lost  # nobody said so: a report may still be accepted
    case.queue.down = None
    wait_until(case.heartbeat.may_write, "the lease to be renewed")


def test_after_a_pause_longer_than_the_lease_the_queue_is_asked_before_anything_is_written() -> None:
    case = Case(interval=3600)  # no beat of its own comes
    assert case.heartbeat.may_write()
    assert case.queue.beats == 0
    case.now += 7201
    assert case.heartbeat.may_write()  # asked, and nobody had taken the job
    assert case.queue.beats == 1
    case.now += 7201
    case.queue.status, case.queue.reason = JobStatus.CANCELED, "superseded"
    assert not case.heartbeat.may_write()
    assert case.lost == ["superseded"]


def test_a_stopped_heartbeat_is_silent(case: Case) -> None:
    case.heartbeat.stop()
    case.heartbeat.start()
    case.now += 10
    assert not case.heartbeat.may_write()
    assert case.queue.beats == 0


def test_it_tells_what_waits_for_its_upload_and_once_that_nothing_does(case: Case) -> None:
    waiting = [UploadBacklog(), UploadBacklog(2, 10, 1.0), UploadBacklog(), UploadBacklog()]
    heartbeat = Heartbeat(
        case.queue,
        shell_job("true"),
        structlog.get_logger(),
        on_lost=case.lost.append,
        on_unreachable=case.unreachable.set,
        backlog=lambda: waiting[0],
        clock=lambda: case.now,
    )
    case.queue.errors["heartbeat"] = []
    for number in range(4):
        if number == 2:  # it is told again when nobody heard it
            case.queue.errors["heartbeat"] = [UnavailableError("reset")]
            assert not heartbeat._beat()
        assert heartbeat._beat()
        waiting.pop(0)
    assert case.queue.backlogs == [None, UploadBacklog(2, 10, 1.0), UploadBacklog(), None]


def test_it_tells_what_was_moved_when_that_changes_and_again_when_nobody_heard(case: Case) -> None:
    first = TransferReport(before=(EntryTransfers(files=1, last_age_s=1.0),))
    same = TransferReport(before=(EntryTransfers(files=1, last_age_s=2.0),))
    more = TransferReport(before=(EntryTransfers(files=2),))
    moved = [TransferReport(), first, same, more]
    heartbeat = Heartbeat(
        case.queue,
        shell_job("true"),
        structlog.get_logger(),
        on_lost=case.lost.append,
        on_unreachable=case.unreachable.set,
        transfers=lambda: moved[0],
        clock=lambda: case.now,
    )
    while moved:
        case.queue.errors["heartbeat"] = [UnavailableError("reset")]
        assert not heartbeat._beat()
        assert heartbeat._beat()
        moved.pop(0)
    assert case.queue.transfers == [first, more]


def test_the_last_word_is_told_though_a_beat_without_it_was_under_way(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [Said(0.0, fraction=0.5)]
    begun, go_on = threading.Event(), threading.Event()

    class SlowQueue(MemoryQueue):
        def heartbeat(self, *told: Any) -> HeartbeatReply:
            if not begun.is_set():
                begun.set()
                go_on.wait(30)
            return super().heartbeat(*told)

    queue = SlowQueue()
    heartbeat = Heartbeat(
        queue,
        shell_job("true", heartbeat_interval=3600),
        structlog.get_logger(),
        on_lost=case.lost.append,
        on_unreachable=case.unreachable.set,
        progress=lambda: said[0],
    )
    tell = heartbeat._beaten.set

    def tell_and_linger() -> None:
        tell()
        heartbeat._stopped.wait(0.2)  # whoever is woken goes on first

    monkeypatch.setattr(heartbeat._beaten, "set", tell_and_linger)
    heartbeat.start()
    assert begun.wait(30)
    said[0] = Said(0.0, fraction=1.0)
    teller = threading.Thread(target=lambda: (heartbeat.tell(30), heartbeat.stop()))
    teller.start()
    wait_until(heartbeat._wanted.is_set, "the beat to be wanted")
    go_on.set()
    teller.join(30)
    assert [report.fraction for report in queue.progress] == [0.5, 1.0]


def test_nobody_waits_for_a_last_word_that_can_be_told_to_nobody(case: Case) -> None:
    said = Said(0.0, fraction=1.0)
    heartbeat = Heartbeat(
        case.queue,
        shell_job("true"),
        structlog.get_logger(),
        on_lost=case.lost.append,
        on_unreachable=case.unreachable.set,
        progress=lambda: said,
    )
    case.queue.status = JobStatus.CANCELED
    assert heartbeat._beat()
    teller = threading.Thread(target=heartbeat.tell, args=(600,), daemon=True)
    teller.start()
    teller.join(30)
    assert not teller.is_alive()
