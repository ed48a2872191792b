"""Events are written by the step that changed the job, and read in order."""

from __future__ import annotations

import pytest

from kelpie.job import JobStatus, Outcome
from kelpie.store import Event, EventType
from tests.factories import GROUP, event_entry
from tests.unit.store.conftest import START_MS, USER, StoreUnderTest, holder_of


def events(sut: StoreUnderTest, after: str = "0-0", count: int = 100) -> list[Event]:
    queue = sut.store.find_queue(USER, GROUP)
    assert queue is not None
    return sut.store.events.read(queue, after, count)


def test_the_life_of_a_job_is_told(sut: StoreUnderTest) -> None:
    job = sut.submit_one(max_failures=2)
    lost = sut.lease("a")
    sut.expire(lost)
    sut.store.heartbeat(job.id, holder_of(lost))
    sut.store.heartbeat(job.id, holder_of(lost))
    sut.store.finish(job.id, holder_of(lost), Outcome.APP_FAILED)
    sut.store.finish(job.id, holder_of(lost), Outcome.APP_FAILED)
    released = sut.lease("b")
    sut.store.finish(job.id, holder_of(released), Outcome.RELEASED)
    done = sut.lease("c")
    sut.store.finish(job.id, holder_of(done), Outcome.COMPLETED)
    sut.store.purge(job.id)
    told = [(e.type, e.attempt, e.node, e.status) for e in events(sut)]
    running = JobStatus.RUNNING
    assert told == [
        (EventType.SUBMITTED, 0, None, JobStatus.PENDING),
        (EventType.RUNNING, 1, "a", running),
        (EventType.INTERRUPTED, 1, "a", running),
        (EventType.REVIVED, 1, "a", running),
        (EventType.APP_FAILED, 1, "a", running),
        (EventType.RUNNING, 2, "b", running),
        (EventType.RELEASED, 2, "b", running),
        (EventType.RUNNING, 3, "c", running),
        (EventType.COMPLETED, 3, "c", JobStatus.COMPLETED),
        (EventType.PURGED, 3, "c", JobStatus.COMPLETED),
    ]
    assert {e.job_id for e in events(sut)} == {job.id}
    assert events(sut)[0].time == START_MS


def test_the_other_ends_are_told_too(sut: StoreUnderTest) -> None:
    sut.submit(2, max_failures=1)
    failed = sut.lease("a")
    sut.store.finish(failed.job.id, holder_of(failed), Outcome.SYNC_FAILED)
    sut.store.cancel(sut.lease("a").job.id)
    assert [(e.type, e.status) for e in events(sut)][-3:] == [
        (EventType.FAILED, JobStatus.FAILED),
        (EventType.RUNNING, JobStatus.RUNNING),
        (EventType.CANCELED, JobStatus.CANCELED),
    ]


def test_events_are_read_on_from_any_of_them(sut: StoreUnderTest) -> None:
    sut.submit(7)
    everything = events(sut)
    found, after = [], "0-0"
    while page := events(sut, after, count=3):
        assert len(page) <= 3
        found += page
        after = page[-1].id
    assert found == everything
    assert len(found) == 7


def test_events_of_a_later_version_do_not_hold_up_those_after_them(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    first = events(sut)[0]
    for _ in range(7):
        sut.redis.xadd(sut.keys().events, event_entry("teleported", job.id))
    sut.store.cancel(job.id)
    assert [event.type for event in events(sut, first.id, count=3)] == [EventType.CANCELED]


def test_the_relay_finds_its_cursor_again(sut: StoreUnderTest) -> None:
    sut.submit(2)
    queue = sut.store.find_queue(USER, GROUP)
    assert queue is not None
    assert sut.store.events.relay_cursor(queue) == "0-0"
    last = events(sut)[-1].id
    sut.store.events.set_relay_cursor(queue, last)
    assert sut.store.events.relay_cursor(queue) == last
    sut.store.purge_all()
    assert sut.store.events.relay_cursor(queue) == last
    sut.submit(1)
    assert [e.type for e in events(sut, last)][-1] is EventType.SUBMITTED


def test_streams_are_bounded(sut: StoreUnderTest) -> None:
    if not sut.real:
        pytest.skip("105,000 entries are slow on fakeredis")
    fill = "for i = 1, 105000 do redis.call('XADD', KEYS[1], '*', 'event', 'x') end"
    sut.redis.eval(fill, 1, sut.keys().events)
    sut.submit(1)
    assert 100_000 <= sut.redis.xlen(sut.keys().events) < 100_500
