from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import structlog

from kelpie.errors import ForbiddenError, InvalidInputError, LeaseLostError, UnavailableError
from kelpie.job import MAX_LOG_BATCH_CHARS, MAX_LOG_BATCH_LINES, LogStream
from kelpie_worker import log_shipper
from kelpie_worker.log_shipper import MAX_PENDING_BYTES, LogShipper
from kelpie_worker.queue import UnknownCallError
from tests.unit.worker.doubles import MemoryQueue, shell_job
from tests.waiting import wait_until

Start = Callable[..., LogShipper]


@pytest.fixture
def queue() -> MemoryQueue:
    return MemoryQueue()


@pytest.fixture
def ship(queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setattr(log_shipper, "_RETRY_S", (0.01, 0.02))
    started: list[LogShipper] = []

    def start(*pieces: tuple[str, bytes], interval_s: float = 3600) -> LogShipper:
        shipper = LogShipper(
            queue, shell_job("true"), structlog.get_logger(), interval_s=interval_s, clock=lambda: 1.0
        )
        started.append(shipper)
        for stream, data in pieces:
            shipper(stream, data)
        shipper.start()
        return shipper

    yield start
    for shipper in started:
        shipper.stop()
        shipper._thread.join()


def finish(shipper: LogShipper) -> None:
    shipper.close()
    shipper._thread.join(30)
    assert not shipper._thread.is_alive()


def told(queue: MemoryQueue) -> list[tuple[str, str]]:
    return [(line.stream.value, line.text) for line in queue.lines]


def assert_numbered(queue: MemoryQueue) -> None:
    expected = 1
    for batch in queue.batches:
        assert batch.first == expected
        expected = batch.last + 1


def test_lines_of_both_streams_are_sent_in_their_order(queue: MemoryQueue, ship: Start) -> None:
    finish(ship(("stdout", b"one\ntw"), ("stderr", b"oh\n"), ("stdout", b"o\nthree")))
    assert told(queue) == [("stdout", "one"), ("stderr", "oh"), ("stdout", "two"), ("stdout", "three")]
    assert {line.time for line in queue.lines} == {1000}
    assert_numbered(queue)


def test_lines_are_sent_while_the_command_runs(queue: MemoryQueue, ship: Start) -> None:
    shipper = ship(interval_s=0.01)
    for number in range(3):
        shipper("stdout", b"line %d\n" % number)
        wait_until(lambda number=number: len(queue.lines) > number, "the line")  # type: ignore[misc]
    finish(shipper)
    assert_numbered(queue)


def test_a_batch_without_an_answer_is_sent_again_as_it_was(
    queue: MemoryQueue, ship: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    keep = MemoryQueue.log

    def noting(self: MemoryQueue, job: object, batch: object) -> None:
        tried.append(batch)
        keep(self, job, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(MemoryQueue, "log", noting)
    queue.errors["log"] = [UnavailableError("down"), ForbiddenError("no")]
    shipper = ship(("stdout", b"a\n"), interval_s=0.01)
    wait_until(lambda: len(tried) >= 2, "two tries")
    shipper("stdout", b"b\n")
    finish(shipper)
    assert tried[0] == tried[1] == tried[2] == queue.batches[0]
    assert told(queue) == [("stdout", "a"), ("stdout", "b")]
    assert_numbered(queue)


def test_while_the_queue_is_away_the_oldest_lines_go_and_a_line_says_so(
    queue: MemoryQueue, ship: Start
) -> None:
    queue.down = UnavailableError("down")
    shipper = ship(interval_s=0.01)
    line = b"x" * 999 + b"\n"
    for _ in range(5 * MAX_PENDING_BYTES // len(line) // 64):
        shipper("stdout", line * 64)
    queue.down = None
    finish(shipper)
    assert_numbered(queue)
    marks = [text for stream, text in told(queue) if stream == LogStream.KELPIE]
    assert marks
    dropped = sum(int(text.split()[1]) for text in marks)
    assert dropped + len(queue.lines) - len(marks) == 5 * MAX_PENDING_BYTES // len(line) // 64 * 64


def test_a_flood_of_short_lines_is_bounded_and_its_end_arrives(queue: MemoryQueue, ship: Start) -> None:
    shipper = ship()
    for _ in range(100):
        shipper("stdout", b"y\n" * 32_768)
    shipper("stdout", b"the end\n")
    finish(shipper)
    lines = told(queue)
    assert lines[-1] == ("stdout", "the end")
    (mark,) = [text for stream, text in lines if stream == "kelpie"]
    assert int(mark.split()[1]) + len(lines) - 1 == 100 * 32_768 + 1
    assert len(lines) <= log_shipper.MAX_PENDING_LINES + 1
    for batch in queue.batches:
        assert len(batch.lines) <= MAX_LOG_BATCH_LINES
        assert sum(len(line.text) for line in batch.lines) <= MAX_LOG_BATCH_CHARS


@pytest.mark.parametrize(
    "error", [LeaseLostError("lost", reason="superseded"), UnknownCallError("old"), RuntimeError("a defect")]
)
def test_what_will_never_be_taken_is_not_sent_again(
    queue: MemoryQueue, ship: Start, error: Exception
) -> None:
    queue.errors["log"] = [error]
    shipper = ship(("stdout", b"a\n"), interval_s=0.01)
    wait_until(lambda: not shipper._thread.is_alive(), "the end")
    shipper("stdout", b"b\n")
    assert queue.batches == []
    assert not shipper._raw


def test_lines_that_are_refused_cost_no_others(queue: MemoryQueue, ship: Start) -> None:
    queue.errors["log"] = [InvalidInputError("no")]
    shipper = ship(("stdout", b"a\n"), interval_s=0.01)
    wait_until(lambda: not queue.errors["log"], "the refusal")
    shipper("stdout", b"b\n")
    finish(shipper)
    assert told(queue) == [("stdout", "b")]


def test_who_waits_for_the_end_is_not_kept_by_a_queue_out_of_reach(queue: MemoryQueue, ship: Start) -> None:
    queue.down = UnavailableError("down")
    shipper = ship(("stdout", b"a\n"))
    shipper.close()
    shipper.join(3600)
    assert shipper._thread.is_alive()  # it goes on trying for a while
    queue.down = None
    shipper._thread.join(30)
    assert told(queue) == [("stdout", "a")]
