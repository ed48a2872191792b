"""The logs of jobs: what is kept of them, for how long, and from whom it is taken."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from kelpie.errors import InvalidInputError, LeaseLostError, NotFoundError, UnavailableError
from kelpie.job import (
    MAX_LOG_BATCH_CHARS,
    MAX_LOG_BATCH_LINES,
    Holder,
    Lease,
    LogBatch,
    LogLine,
    LogStream,
    Outcome,
)
from kelpie.store import LogPage, LogPlace, Store
from tests.factories import spec
from tests.unit.store.conftest import USER, StoreUnderTest, holder_of

STREAMS = list(LogStream)


def batch(first: int, *texts: str, time: int = 5) -> LogBatch:
    return LogBatch(first, tuple(LogLine(STREAMS[i % 3], time + i, one) for i, one in enumerate(texts)))


def texts(page: LogPage) -> list[str]:
    return [line.text for _, line in page.lines]


def places(page: LogPage) -> list[str]:
    return [str(place) for place, _ in page.lines]


def incompressible(seed: int, length: int = 1000) -> str:
    """Text that takes about half its length when it is packed."""
    return random.Random(seed).randbytes(length // 2).hex()


@pytest.fixture
def lease(sut: StoreUnderTest) -> Lease:
    sut.submit_one()
    return sut.lease()


def append(sut: StoreUnderTest, lease: Lease, lines: LogBatch, **how: float) -> bool:
    return sut.store.append_log(lease.job.id, holder_of(lease), lines, **how)  # type: ignore[arg-type]


def test_lines_come_back_as_they_were_sent(sut: StoreUnderTest, lease: Lease) -> None:
    sent = batch(1, "a", "\x1b[31m\x00é\U0001f40e", "", time=1_764_000_000_000)
    append(sut, lease, sent)
    append(sut, lease, batch(4, "d"))
    page = sut.store.log(lease.job.id)
    assert [line for _, line in page.lines] == [*sent.lines, *batch(4, "d").lines]
    assert places(page) == ["1-1", "1-2", "1-3", "1-4"]
    assert (page.next, page.gap) == (LogPlace(1, 4), False)


def test_the_same_batch_again_and_one_of_before_change_nothing(sut: StoreUnderTest, lease: Lease) -> None:
    assert append(sut, lease, batch(1, "a", "b"))
    assert not append(sut, lease, batch(1, "a", "b"))
    assert append(sut, lease, batch(3, "c"))
    state = sut.state()
    append(sut, lease, batch(1, "a", "b"))
    append(sut, lease, batch(3, "c"))
    assert sut.state() == state
    assert texts(sut.store.log(lease.job.id)) == ["a", "b", "c"]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pages_lead_through_all_attempts_from_any_place(sut: StoreUnderTest, lease: Lease, size: int) -> None:
    append(sut, lease, batch(1, "a", "b", "c"))
    sut.store.finish(lease.job.id, holder_of(lease), Outcome.RELEASED)
    second = sut.lease()
    for number in range(10):
        append(sut, second, batch(2 * number + 1, f"x{number}", f"y{number}"))
    everything = ["a", "b", "c", *(f"{kind}{number}" for number in range(10) for kind in "xy")]
    found: list[str] = []
    after = LogPlace(0, 0)
    while (page := sut.store.log(lease.job.id, after, count=size)).lines:
        assert len(page.lines) <= size
        assert not page.gap
        found += texts(page)
        after = page.next
    assert found == everything
    assert page.next == after == LogPlace(2, 20)
    for count in (1, 4, 21, 30):
        assert texts(sut.store.log_tail(lease.job.id, count=count)) == everything[-count:]


def test_a_log_without_lines_is_empty_and_an_unknown_job_has_none(sut: StoreUnderTest, lease: Lease) -> None:
    for page in (sut.store.log(lease.job.id), sut.store.log_tail(lease.job.id)):
        assert (page.lines, page.next, page.gap) == ([], LogPlace(0, 0), False)
    unknown = sut.submit_one(user="other").id[:-12] + lease.job.id[-12:]
    for call in (sut.store.log, sut.store.log_tail):
        with pytest.raises(NotFoundError):
            call(unknown)
        with pytest.raises(NotFoundError):
            call(lease.job.id, user_id="other")
    with pytest.raises(NotFoundError):
        sut.store.append_log(unknown, holder_of(lease), batch(1, "a"))
    with pytest.raises(NotFoundError):
        sut.store.append_log(lease.job.id, holder_of(lease), batch(1, "a"), user_id="other")


def test_the_oldest_lines_go_when_there_is_no_room_and_the_gap_is_told(
    sut: StoreUnderTest, lease: Lease
) -> None:
    for number in range(1, 41):
        append(sut, lease, batch(number, incompressible(number)), max_bytes=10_000)
    page = sut.store.log(lease.job.id, count=100)
    first = page.lines[0][0].line
    assert page.lines[-1][0] == LogPlace(1, 40)
    assert page.gap
    assert not sut.store.log(lease.job.id, LogPlace(1, first - 1)).gap
    assert sut.store.log(lease.job.id, LogPlace(1, first - 2)).gap
    stream = f"{sut.keys().prefix}log:{lease.job.id}"
    sizes = [len(fields[b"lines"]) + 64 for _, fields in sut.redis.xrange(stream)]
    assert sum(sizes) <= 10_000 < sum(sizes) + sizes[0]  # as much as there is room for
    assert int(sut.redis.hget(sut.keys().job(lease.job.id), "log_bytes")) == sum(sizes)


def test_a_batch_larger_than_the_room_is_what_is_left(sut: StoreUnderTest, lease: Lease) -> None:
    append(sut, lease, batch(1, "small"), max_bytes=500)
    append(sut, lease, batch(2, incompressible(1)), max_bytes=500)
    assert places(sut.store.log(lease.job.id)) == ["1-2"]
    append(sut, lease, batch(3, "small"), max_bytes=500)
    assert places(sut.store.log(lease.job.id)) == ["1-3"]


def test_what_just_has_room_stays(sut: StoreUnderTest, lease: Lease) -> None:
    append(sut, lease, batch(1, "a"))
    size = int(sut.redis.hget(sut.keys().job(lease.job.id), "log_bytes") or 0)
    append(sut, lease, batch(2, "a"), max_bytes=2 * size)
    assert places(sut.store.log(lease.job.id)) == ["1-1", "1-2"]
    append(sut, lease, batch(3, "a"), max_bytes=3 * size - 1)
    assert places(sut.store.log(lease.job.id)) == ["1-2", "1-3"]


def test_without_room_nothing_is_kept(sut: StoreUnderTest, lease: Lease) -> None:
    append(sut, lease, batch(1, "a"), max_bytes=0)
    assert sut.store.log(lease.job.id).lines == []


def test_a_log_is_kept_for_its_time_after_the_last_line(sut: StoreUnderTest, lease: Lease) -> None:
    stream = f"{sut.keys().prefix}log:{lease.job.id}"
    append(sut, lease, batch(1, incompressible(1)), days=2)
    assert 2 * 86_400_000 - 60_000 < sut.redis.pttl(stream) <= 2 * 86_400_000
    sut.redis.delete(stream)  # as if that time were over
    append(sut, lease, batch(2, "b"))
    assert texts(sut.store.log(lease.job.id)) == ["b"]
    assert sut.store.log(lease.job.id).gap
    ((_, fields),) = sut.redis.xrange(stream)
    assert int(sut.redis.hget(sut.keys().job(lease.job.id), "log_bytes")) == len(fields[b"lines"]) + 64


def test_only_the_last_attempt_adds_lines_also_when_it_has_ended(sut: StoreUnderTest, lease: Lease) -> None:
    with pytest.raises(LeaseLostError) as refused:
        sut.store.append_log(lease.job.id, Holder("node-1", "1.forged"), batch(1, "forged"))
    assert refused.value.reason == "not_holder"
    sut.store.finish(lease.job.id, holder_of(lease), Outcome.RELEASED)
    append(sut, lease, batch(1, "last words"))
    second = sut.lease("node-2")
    with pytest.raises(LeaseLostError) as refused:
        append(sut, lease, batch(2, "too late"))
    assert refused.value.reason == "superseded"
    sut.store.finish(lease.job.id, holder_of(second), Outcome.COMPLETED)
    append(sut, second, batch(1, "after the end"))
    assert texts(sut.store.log(lease.job.id)) == ["last words", "after the end"]


@pytest.mark.parametrize(
    "bad",
    [
        LogBatch(1, ()),
        batch(1, *["x"] * (MAX_LOG_BATCH_LINES + 1)),
        batch(0, "x"),
        batch(10**15 + 1, "x"),
        batch(1, "x" * MAX_LOG_BATCH_CHARS, "x"),
    ],
)
def test_a_batch_out_of_bounds_is_refused(sut: StoreUnderTest, lease: Lease, bad: LogBatch) -> None:
    with pytest.raises(InvalidInputError):
        append(sut, lease, bad)


def test_the_largest_batches_come_back_whole(sut: StoreUnderTest, lease: Lease) -> None:
    control = batch(1, "\x00" * MAX_LOG_BATCH_CHARS)
    append(sut, lease, control)
    append(sut, lease, batch(2, *["\U0001f40e" * 256] * MAX_LOG_BATCH_LINES))
    append(sut, lease, batch(10**15, "\ud800"))
    found = sut.store.log(lease.job.id, count=2000).lines
    assert found[0][1].text == "\x00" * MAX_LOG_BATCH_CHARS
    assert [line.text for _, line in found[1:-1]] == ["\U0001f40e" * 256] * MAX_LOG_BATCH_LINES
    assert (str(found[-1][0]), found[-1][1].text) == (f"1-{10**15}", "?")


@pytest.mark.parametrize("how", ["purge", "purge_all", "expire"])
def test_a_log_goes_with_its_job(
    sut: StoreUnderTest, lease: Lease, how: str, leaked_keys: Callable[[], list[bytes]]
) -> None:
    append(sut, lease, batch(1, "a"))
    job = lease.job
    if how == "purge":
        sut.store.purge(job.id)
    elif how == "purge_all":
        sut.store.purge_all()
    else:
        sut.store.finish(job.id, holder_of(lease), Outcome.COMPLETED)
        (queue,) = sut.store.queues(USER)
        sut.advance(1000)
        assert sut.store.expire(queue, sut.now) == 1
    assert [key for key in leaked_keys() if b":log:" in key] == []


def test_short_memory_refuses_lines_before_anything_else(real_store: Store) -> None:
    real_store.submit(USER, [spec()])
    real_store.redis.config_set("maxmemory", 1)
    lease = real_store.lease(USER, spec().container_group_id, "node-1", "request-1")
    assert lease is not None
    with pytest.raises(UnavailableError, match="maxmemory"):
        real_store.append_log(lease.job.id, holder_of(lease), batch(1, "a"))
    real_store.finish(lease.job.id, holder_of(lease), Outcome.COMPLETED)
