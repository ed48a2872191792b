"""Followers of events on the real server."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from kelpie.embedded.valkey import ValkeyServer
from kelpie.errors import TooFastError, UnavailableError
from kelpie.job import Outcome
from kelpie.store import EventHub, Follower, PlacedEvent, Position, Queue, Store
from kelpie.store import hub as module
from kelpie.store.events import BEGINNING
from tests.factories import GROUP, event_entry, spec
from tests.unit.store.conftest import OTHER_USER, USER, holder_of
from tests.waiting import wait_until

Heard = list[tuple[Position, PlacedEvent]]


@pytest.fixture
def hub(real_store: Store) -> Iterator[EventHub]:
    """A hub of a store of its own connections."""
    hub = EventHub(real_store)
    yield hub
    hub.close()


def hear(follower: Follower, count: int) -> Heard:
    """The next ``count`` events."""
    heard: Heard = []

    def enough() -> bool:
        heard.extend(follower.take(0.05))
        return len(heard) >= count

    wait_until(enough, f"{count} events")
    return heard


def jobs_of(heard: Heard) -> list[str]:
    return [one.event.job_id for _, one in heard]


def submit(store: Store, user: str = USER, group: str = GROUP, count: int = 1) -> list[str]:
    return [job.id for job in store.submit(user, [spec(container_group_id=group) for _ in range(count)])]


def test_a_follower_hears_what_happens_from_now_on_in_order(hub: EventHub, real_store: Store) -> None:
    submit(real_store)
    real_store.events.settled_ms()  # and that was not now
    follower = hub.follow(USER)
    ids = submit(real_store) + submit(real_store, group="b") + submit(real_store)
    lease = real_store.lease(USER, GROUP, "n", "r" * 16)
    assert lease is not None
    real_store.finish(lease.job.id, holder_of(lease), Outcome.COMPLETED)
    heard = hear(follower, 5)
    assert sorted(jobs_of(heard)[:3]) == sorted(ids)  # those of one millisecond may change places
    assert [one.event.type.value for _, one in heard if one.event.job_id == lease.job.id][-2:] == [
        "running",
        "completed",
    ]
    positions = [position for position, _ in heard]
    assert positions == sorted(one.position for _, one in heard)


def test_what_came_before_can_be_read_up_to_exactly_there(hub: EventHub, real_store: Store) -> None:
    expected, lock, stop = list[str](), threading.Lock(), threading.Event()

    def write() -> None:
        while not stop.is_set():
            for group in ("a", "b", "c"):
                with lock:
                    expected.extend(submit(real_store, group=group))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        wait_until(lambda: len(expected) > 50, "a history")
        for _ in range(5):
            follower = hub.follow(USER)
            before = real_store.events.page(follower.queues, BEGINNING, follower.since_ms, 1_000_000)
            after = hear(follower, 30)
            follower.close()
            heard = [one.event.job_id for one in before] + jobs_of(after)
            assert sorted(heard) == sorted(set(heard))
            with lock:
                assert set(heard) == set(expected[: len(heard)])
    finally:
        stop.set()
        writer.join()


def test_users_jobs_and_the_admin_hear_what_is_theirs(hub: EventHub, real_store: Store) -> None:
    [first, second] = submit(real_store, count=2)
    queue = real_store.find_queue(USER, GROUP)
    assert queue is not None
    real_store.events.settled_ms()  # what was submitted is not of now
    mine, others, all_of_them = hub.follow(USER), hub.follow(OTHER_USER), hub.follow(None)
    one_job = hub.follow(None, (queue, second))
    real_store.cancel(first)
    real_store.cancel(second)
    [foreign] = submit(real_store, user=OTHER_USER)
    assert sorted(jobs_of(hear(all_of_them, 3))) == sorted([first, second, foreign])
    assert jobs_of(hear(mine, 2)) == [first, second]
    assert jobs_of(hear(others, 1)) == [foreign]
    assert jobs_of(hear(one_job, 1)) == [second]
    for follower in (mine, others, all_of_them, one_job):
        assert follower.take(0.6) == []


def test_queues_that_appear_later_are_heard_too(hub: EventHub, real_store: Store) -> None:
    follower, admin = hub.follow(USER), hub.follow(None)  # before the user's first job
    ids = submit(real_store, group="new") + submit(real_store, group="newer")
    assert sorted(jobs_of(hear(follower, 2))) == sorted(ids)
    assert sorted(jobs_of(hear(admin, 2))) == sorted(ids)


def test_who_hears_nothing_moves_on(hub: EventHub, real_store: Store) -> None:
    follower = hub.follow(USER)
    wait_until(lambda: follower.take(0.1) == [] and follower.position.ms > follower.since_ms, "it moved on")
    quiet = follower.position
    follower.close()
    [job_id] = submit(real_store)
    later = real_store.events.page(real_store.queues(USER), quiet, real_store.events.settled_ms(), 10)
    assert [one.event.job_id for one in later] == [job_id]


def test_nobody_who_left_costs_anything(hub: EventHub, real_store: Store) -> None:
    submit(real_store)
    real_store.events.settled_ms()  # and that was not now
    followers = [hub.follow(USER) for _ in range(3)]
    assert hub.count() == 3
    for follower in followers:
        follower.close()
        follower.close()
    assert hub.count() == 0
    assert hub._cursors == hub._followed == {}
    submit(real_store)  # nobody hears it
    real_store.events.settled_ms()
    again = hub.follow(USER)
    ids = submit(real_store)
    assert jobs_of(hear(again, 1)) == ids


def test_an_owner_has_so_many_followers_and_others_as_many(hub: EventHub) -> None:
    first, second = (hub.follow(USER, owner="ann", limit=2) for _ in range(2))
    with pytest.raises(TooFastError, match="2 event streams"):
        hub.follow(USER, owner="ann", limit=2)
    assert hub.count() == 2
    hub.follow(USER, owner="bob", limit=1)
    for _ in range(2):  # leaving twice makes no more room
        first.close()
    hub.follow(USER, owner="ann", limit=2)
    with pytest.raises(TooFastError):
        hub.follow(USER, owner="ann", limit=2)
    second.close()


def test_a_slow_follower_is_disconnected_and_others_are_not(
    hub: EventHub, real_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUFFER", 10)
    disconnected = threading.Event()
    slow, fast = hub.follow(USER, disconnect=disconnected.set), hub.follow(USER)
    ids = list[str]()
    for _ in range(3):
        ids += submit(real_store, count=5)
        assert len(hear(fast, 5)) == 5
    assert disconnected.wait(10)
    assert slow.ended
    assert slow.take(0) == []
    assert not fast.ended


def test_more_at_once_than_one_read_takes_is_all_heard(
    hub: EventHub, real_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 7)
    follower = hub.follow(USER)
    ids = submit(real_store, group="a", count=50) + submit(real_store, group="b", count=20)
    heard = hear(follower, 70)
    assert sorted(jobs_of(heard)) == sorted(ids)
    # Wherever it is cut, what follows the place to resume from holds all the rest.
    queues, now_ms = real_store.queues(USER), real_store.events.settled_ms()
    for place in range(0, 70, 9):
        position, _ = heard[place]
        rest = real_store.events.page(queues, position, now_ms, 1000)
        assert set(jobs_of(heard)[place + 1 :]) <= {one.event.job_id for one in rest}


def test_a_clock_that_went_back_hides_nothing(hub: EventHub, real_store: Store) -> None:
    """Ids of a stream never go back, so those of a server whose clock did are ahead of its time."""
    submit(real_store, group="ahead")
    ahead_ms = real_store.events.settled_ms() + 3_600_000  # what was submitted is not of now
    follower = hub.follow(USER)
    [stream] = real_store.redis.scan_iter(match="kelpie:*:events")
    real_store.redis.xadd(stream, event_entry("running", "early"), id=f"{ahead_ms}-0")
    heard = hear(follower, 1)
    [job_id] = submit(real_store, group="on-time")
    heard += hear(follower, 1)
    assert jobs_of(heard) == ["early", job_id]
    rest = real_store.events.page(real_store.queues(USER), heard[0][0], real_store.events.settled_ms(), 10)
    assert job_id in {one.event.job_id for one in rest}


def test_closing_ends_all_followers_at_once(hub: EventHub) -> None:
    follower = hub.follow(USER)
    ended = threading.Event()
    listener = threading.Thread(target=lambda: (follower.take(60), ended.set()))
    listener.start()
    hub.close()
    assert ended.wait(10)
    listener.join()
    assert follower.ended
    assert hub.follow(USER).ended
    assert not any(thread.name == "kelpie-events" for thread in threading.enumerate())


def test_an_outage_is_borne_and_nothing_is_missed(tmp_path: object) -> None:
    with ValkeyServer(tmp_path / "valkey") as server:  # type: ignore[operator]
        store = Store.connect(server.url)
        hub = EventHub(store)
        try:
            follower = hub.follow(USER)
            submit(store)
            hear(follower, 1)
            server.kill()
            with pytest.raises(UnavailableError):
                hub.follow(USER)
            server.start()
            ids = submit(store) + submit(store, group="new")
            assert sorted(jobs_of(hear(follower, 2))) == sorted(ids)
        finally:
            hub.close()
            store.close()


def test_thousands_of_idle_followers_ask_redis_no_more_than_one(hub: EventHub, real_store: Store) -> None:
    submit(real_store)
    real_store.events.settled_ms()  # and that was not now
    followers = [hub.follow(USER) for _ in range(2000)]

    def commands() -> int:
        return int(real_store.redis.info("stats")["total_commands_processed"])

    def reads() -> int:
        return hub._read_ms

    before, first = commands(), reads()
    wait_until(lambda: reads() - first > 1000, "a second of reads")
    assert commands() - before < 60
    [job_id] = submit(real_store)
    wait_until(lambda: all(follower._buffer for follower in followers), "all have heard")
    assert {jobs_of(follower.take(0))[0] for follower in followers} == {job_id}


def test_a_queue_is_told_of_by_its_name(hub: EventHub, real_store: Store) -> None:
    follower = hub.follow(USER)
    submit(real_store, group="näme/{x}")
    [(_, one)] = hear(follower, 1)
    assert one.queue == Queue(1, USER, "näme/{x}")
