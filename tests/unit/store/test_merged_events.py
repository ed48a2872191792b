"""The events of several queues in one order, and places in it to resume from."""

from __future__ import annotations

import random

import pytest

from kelpie.errors import InvalidInputError
from kelpie.store import Event, EventType, PlacedEvent, Position, Queue
from kelpie.store.events import BEGINNING
from tests.factories import event_entry, spec
from tests.unit.store.conftest import USER, StoreUnderTest

LATER_MS = 10**14


def fill(sut: StoreUnderTest, ids: dict[str, list[str]], job_id: str = "job") -> list[Queue]:
    """Queues whose streams have entries of these ids."""
    for group, entries in ids.items():
        sut.store.submit(USER, [spec(container_group_id=group)])
        sut.redis.delete(sut.keys(group).events)
        for entry in entries:
            add(sut, group, entry, job_id)
    return sut.store.queues(USER)


def add(sut: StoreUnderTest, group: str, event_id: str, job_id: str = "job", kind: str = "running") -> None:
    sut.redis.xadd(sut.keys(group).events, event_entry(kind, job_id), id=event_id)


def ids(page: list[PlacedEvent]) -> list[str]:
    return [str(one.position) for one in page]


def test_events_of_all_queues_come_in_one_order(sut: StoreUnderTest) -> None:
    queues = fill(sut, {"a": ["5-0", "7-1", "9-0"], "b": ["5-0", "6-0", "7-0"], "c": ["1-0"]})
    assert ids(sut.store.events.page(queues, BEGINNING, LATER_MS, 100)) == [
        "1-0-3", "5-0-1", "5-0-2", "6-0-2", "7-0-2", "7-1-1", "9-0-1",
    ]  # fmt: skip


def test_from_every_place_the_rest_follows(sut: StoreUnderTest) -> None:
    chance = random.Random(3)
    streams = {
        group: [
            f"{ms}-{n}" for ms in sorted(chance.sample(range(1, 60), 20)) for n in range(chance.randint(1, 3))
        ]
        for group in "abcd"
    }
    queues = fill(sut, streams)
    everything = sut.store.events.page(queues, BEGINNING, LATER_MS, 1000)
    assert len(everything) == sum(map(len, streams.values()))
    assert [one.position for one in everything] == sorted(one.position for one in everything)
    for place, one in enumerate(everything):
        count = chance.randint(1, 30)
        expected = everything[place + 1 : place + 1 + count]
        assert sut.store.events.page(queues, one.position, LATER_MS, count) == expected


def test_what_is_not_over_yet_is_not_told(sut: StoreUnderTest) -> None:
    queues = fill(sut, {"a": ["5-0", "7-1"], "b": ["7-0", "8-0"]})
    assert ids(sut.store.events.page(queues, BEGINNING, 7, 100)) == ["5-0-1"]


def test_a_page_of_no_queues_is_empty(sut: StoreUnderTest) -> None:
    assert sut.store.events.page([], BEGINNING, LATER_MS, 100) == []


def test_events_of_one_job_are_found_among_those_of_others(sut: StoreUnderTest) -> None:
    [queue] = fill(sut, {"a": []})
    for number in range(2500):
        add(sut, "a", f"{number + 1}-0", job_id="mine" if number % 500 == 7 else "other")
    read = sut.store.events.job_page
    everything = read(queue, "mine", BEGINNING, LATER_MS, 100)
    assert ids(everything) == [f"{number}-0-1" for number in (8, 508, 1008, 1508, 2008)]
    assert read(queue, "mine", BEGINNING, LATER_MS, 2) == everything[:2]
    assert read(queue, "mine", everything[1].position, LATER_MS, 2) == everything[2:4]
    assert read(queue, "mine", BEGINNING, 1008, 100) == everything[:2]
    assert read(queue, "nobody's", BEGINNING, LATER_MS, 100) == []


def test_news_are_what_came_after_each_cursor(sut: StoreUnderTest) -> None:
    a, b, c = fill(sut, {"a": ["5-0", "7-1"], "b": ["7-0"], "c": ["1-0"]})
    news = sut.store.events.read_news({a: "5-0", b: "0-0", c: "1-0"}, 10)
    assert {queue: [event.id for event in events] for queue, events in news.items()} == {
        a: ["7-1"], b: ["7-0"],
    }  # fmt: skip


def test_what_a_later_version_wrote_is_passed_over(sut: StoreUnderTest) -> None:
    [queue] = fill(sut, {"a": ["5-0"]})
    add(sut, "a", "6-0", kind="teleported")
    add(sut, "a", "7-0")
    events: list[Event] = sut.store.events.read(queue)
    assert [event.id for event in events] == ["5-0", "7-0"]
    assert ids(sut.store.events.page([queue], BEGINNING, LATER_MS, 2)) == ["5-0-1", "7-0-1"]
    assert {event.type for event in events} == {EventType.RUNNING}


@pytest.mark.parametrize(
    "written", ["", "x", "1-2", "1-2-3-4", "-1-2-3", "1-2-x", "9" * 40 + "-0-1", "1-0-1\n"]
)
def test_what_names_no_place_is_refused(written: str) -> None:
    with pytest.raises(InvalidInputError, match="after"):
        Position.parse(written)


def test_a_place_is_read_as_it_is_written() -> None:
    for position in (Position(1_800_000_000_000, 12, 3), BEGINNING):
        assert Position.parse(str(position)) == position
    assert Position.parse("0") == BEGINNING


def test_a_gap_is_seen_where_events_were_trimmed(sut: StoreUnderTest) -> None:
    if not sut.real:
        pytest.skip("fakeredis does not count what was added to a stream")
    a, b = fill(sut, {"a": [f"{n}-0" for n in range(10, 20)], "b": ["50-0"]})
    gap = sut.store.events.has_gap
    assert not gap([a, b], Position(5, 0, 1))
    sut.redis.xtrim(sut.keys("a").events, minid="15-0", approximate=False)
    assert gap([a, b], Position(12, 0, 1))
    assert not gap([a, b], Position(15, 0, 1))
    assert not gap([a, b], BEGINNING)  # who asks for all that is kept misses nothing of it
    assert not gap([b], Position(12, 0, 1))
    sut.redis.xtrim(sut.keys("a").events, maxlen=0, approximate=False)
    assert gap([a, b], Position(18, 0, 1))
    assert not gap([a, b], Position(20, 0, 1))


def test_a_place_in_the_future_is_a_gap(sut: StoreUnderTest) -> None:
    [queue] = fill(sut, {"a": ["5-0"]})
    assert sut.store.events.has_gap([queue], Position(sut.store.events.now_ms() + 60_000, 0, 1))


def test_a_settled_time_is_after_all_that_is_known(sut: StoreUnderTest) -> None:
    for _ in range(20):
        before = sut.store.events.now_ms()
        settled = sut.store.events.settled_ms()
        assert before < settled <= sut.store.events.now_ms()
