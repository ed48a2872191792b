"""Webhook deliveries: each is queued once, tried in fair turns, and kept for its owner for a while."""

from __future__ import annotations

from typing import Any

import pytest

from kelpie.errors import InvalidInputError, NotFoundError
from kelpie.store import Deliveries, DeliveryStatus
from kelpie.store.deliveries import Claim, Keeping, Patience, Report
from tests.unit.store.conftest import OTHER_USER, USER, StoreUnderTest
from tests.waiting import wait_until

JOB = "11111111-1111-4111-8111-111111111111"
RETRY = Report(None, code=500, error="it answered 500", retry_ms=0)
AWAY = Report(None, error="it did not answer in time", retry_ms=0, away=True)
DONE = Report(DeliveryStatus.DELIVERED, code=204)


@pytest.fixture
def deliveries(sut: StoreUnderTest) -> Deliveries:
    """Deliveries on both servers."""
    return sut.store.deliveries


def put(
    deliveries: Deliveries, name: str, user: str = USER, receiver: str = "a.example:443", job: str = JOB
) -> bool:
    return deliveries.put(
        name,
        user_id=user,
        job_id=job,
        event="running",
        url=f"https://{receiver}/hook?token=x",
        receiver=receiver,
        body="{}",
    )


def claim(deliveries: Deliveries, limit: int = 100, per_user: int = 100, **how: int) -> list[Claim]:
    values: dict[str, int] = {"claim_ms": 60_000, "max_tries": 3} | how
    return deliveries.claim(limit=limit, per_user=per_user, **values)


def claimed(deliveries: Deliveries, **how: Any) -> list[str]:
    return [one.delivery_id for one in claim(deliveries, **how)]


def fail(deliveries: Deliveries, report: Report = RETRY, limit: int = 1, **how: Any) -> str:
    """One try of the delivery whose turn it is."""
    [one] = claim(deliveries, limit=limit)
    assert deliveries.begin(one, claim_ms=60_000) is not None
    assert deliveries.finish(one, report, **how)
    return one.delivery_id


def test_a_delivery_is_queued_once_however_often_it_comes(deliveries: Deliveries) -> None:
    assert put(deliveries, "d1")
    assert not put(deliveries, "d1")
    fail(deliveries, DONE)
    assert not put(deliveries, "d1")
    assert claim(deliveries) == []


def test_a_delivery_is_claimed_once_until_its_claim_ends(deliveries: Deliveries) -> None:
    put(deliveries, "d1")
    [first] = claim(deliveries, claim_ms=30)
    assert claim(deliveries) == []
    [second] = wait_until(lambda: claim(deliveries), "the claim has ended")
    assert (second.delivery_id, second.number) == ("d1", first.number + 1)
    assert deliveries.begin(first, claim_ms=60_000) is None
    assert deliveries.begin(second, claim_ms=60_000) is not None


def test_who_begins_in_time_is_given_time_anew(deliveries: Deliveries, sut: StoreUnderTest) -> None:
    def ends() -> float:
        score = sut.redis.zscore("kelpie:{webhooks}:claimed", "d1")
        assert isinstance(score, float)
        return score

    put(deliveries, "d1")
    [one] = claim(deliveries, claim_ms=60_000)
    before = ends()
    assert deliveries.begin(one, claim_ms=600_000) is not None
    assert ends() >= before + 540_000


def test_beginning_twice_counts_once(deliveries: Deliveries) -> None:
    put(deliveries, "d1")
    [one] = claim(deliveries)
    for _ in range(2):  # the first answer was lost
        begun = deliveries.begin(one, claim_ms=60_000)
        assert begun is not None
        assert begun.tries == 1


def test_reporting_twice_changes_nothing(deliveries: Deliveries) -> None:
    put(deliveries, "d1")
    [one] = claim(deliveries)
    deliveries.begin(one, claim_ms=60_000)
    assert deliveries.finish(one, RETRY)
    assert not deliveries.finish(one, RETRY)
    assert len(deliveries.get("d1", user_id=USER).attempts) == 1
    assert len(claim(deliveries)) == 1


def test_a_try_whose_process_died_counts_and_the_last_one_ends_it(deliveries: Deliveries) -> None:
    put(deliveries, "d1")
    for _ in range(3):
        [one] = wait_until(lambda: claim(deliveries), "it is due")
        assert deliveries.begin(one, claim_ms=10) is not None
    wait_until(
        lambda: claim(deliveries) == [] and deliveries.get("d1", user_id=USER).status == "failed",
        "the delivery has failed",
    )
    kept = deliveries.get("d1", user_id=USER)
    assert [attempt.error for attempt in kept.attempts] == ["the process that delivered it ended"] * 3


def test_what_was_delivered_is_delivered_though_its_claim_had_ended(deliveries: Deliveries) -> None:
    put(deliveries, "d1")
    [slow] = claim(deliveries, claim_ms=10)
    deliveries.begin(slow, claim_ms=10)
    [fast] = wait_until(lambda: claim(deliveries), "another claim")
    assert not deliveries.finish(slow, RETRY)  # too late to matter
    assert deliveries.finish(slow, DONE)
    assert deliveries.begin(fast, claim_ms=60_000) is None
    assert deliveries.get("d1", user_id=USER).status is DeliveryStatus.DELIVERED
    assert claim(deliveries) == []


def test_a_failed_try_is_followed_by_another_after_its_pause(deliveries: Deliveries) -> None:
    put(deliveries, "d1")
    fail(deliveries, Report(None, code=500, error="e", retry_ms=60_000))
    assert claim(deliveries) == []
    kept = deliveries.get("d1", user_id=USER)
    assert kept.next_try is not None
    assert kept.next_try - kept.attempts[0].time == 60_000
    put(deliveries, "d2")
    assert claimed(deliveries) == ["d2"]  # another one to the same receiver does not wait for it


@pytest.mark.parametrize(
    "status",
    [DeliveryStatus.DELIVERED, DeliveryStatus.FAILED, DeliveryStatus.REFUSED, DeliveryStatus.DROPPED],
)
def test_the_end_of_a_delivery_is_kept(
    deliveries: Deliveries, sut: StoreUnderTest, status: DeliveryStatus
) -> None:
    put(deliveries, "d1")
    fail(deliveries, Report(status, error="because"))
    kept = deliveries.get("d1", user_id=USER)
    assert (kept.status, kept.next_try) == (status, None)
    assert kept.ended is not None
    left = {key for key in sut.redis.scan_iter(match="*webhooks*") if sut.redis.ttl(key) < 0}
    assert left == {b"kelpie:{webhooks}:sequence"}  # everything else goes by itself


def test_turns_go_round_by_user(deliveries: Deliveries) -> None:
    for number in range(6):
        put(deliveries, f"a{number}")
    for number in range(3):
        put(deliveries, f"b{number}", user=OTHER_USER)
    assert [name[0] for name in claimed(deliveries, limit=6)] == ["a", "b"] * 3


def test_turns_of_a_user_go_round_by_receiver(deliveries: Deliveries) -> None:
    for number in range(3):
        put(deliveries, f"a{number}", receiver="a.example:443")
    put(deliveries, "b0", receiver="b.example:443")
    assert "b0" in claimed(deliveries, limit=2)


def test_a_user_has_so_many_tries_at_once_and_no_more(deliveries: Deliveries) -> None:
    for number in range(5):
        put(deliveries, f"a{number}")
    put(deliveries, "b0", user=OTHER_USER)
    first = claim(deliveries, per_user=2)
    assert sorted(one.delivery_id for one in first) == ["a0", "a1", "b0"]
    assert claim(deliveries, per_user=2) == []
    deliveries.begin(first[0], claim_ms=60_000)
    deliveries.finish(first[0], DONE)
    assert claimed(deliveries, per_user=2) == ["a2"]


def test_so_many_claims_are_open_at_once_and_no_more(deliveries: Deliveries) -> None:
    for number in range(5):
        put(deliveries, f"a{number}", user=f"user-{number}")
    assert len(claim(deliveries, limit=3)) == 3
    assert claim(deliveries, limit=3) == []


def test_a_receiver_that_is_away_is_asked_by_one_delivery_at_a_time(deliveries: Deliveries) -> None:
    patience = Patience(failures=2, pause_ms=1000, longest_ms=1000)
    for number in range(20):
        put(deliveries, f"a{number}")
    fail(deliveries, AWAY, patience=patience)
    fail(deliveries, AWAY, patience=patience)
    put(deliveries, "b0", receiver="b.example:443")
    assert claimed(deliveries) == ["b0"]  # another receiver of the same user is not held up
    probe = wait_until(lambda: claim(deliveries), "a probe after the pause")
    assert len(probe) == 1
    assert claim(deliveries) == []
    deliveries.begin(probe[0], claim_ms=60_000)
    deliveries.finish(probe[0], AWAY, patience=patience)
    assert claim(deliveries) == []
    probe = wait_until(lambda: claim(deliveries), "the next probe")
    deliveries.begin(probe[0], claim_ms=60_000)
    deliveries.finish(probe[0], DONE, patience=patience)
    assert len(claim(deliveries)) == 19  # it answers: all of them may come


def test_one_users_receiver_that_is_away_is_not_held_against_another_user(deliveries: Deliveries) -> None:
    put(deliveries, "a0")
    fail(deliveries, AWAY, patience=Patience(failures=1))
    put(deliveries, "a1")
    put(deliveries, "b0", user=OTHER_USER)
    assert claimed(deliveries) == ["b0"]


def test_a_receiver_that_answers_badly_is_not_away(deliveries: Deliveries) -> None:
    put(deliveries, "a0")
    for _ in range(10):
        fail(deliveries, RETRY, patience=Patience(failures=1))
    assert claimed(deliveries) == ["a0"]


def test_pauses_of_a_receiver_that_stays_away_grow_to_a_limit(
    deliveries: Deliveries, sut: StoreUnderTest
) -> None:
    patience = Patience(failures=1, pause_ms=1000, longest_ms=3000)
    health = f"kelpie:{{webhooks}}:health:{USER}:a.example:443"
    put(deliveries, "a0")
    pauses = []
    for _ in range(4):
        fail(deliveries, AWAY, patience=patience)
        ended = deliveries.get("a0", user_id=USER).attempts[-1].time
        closed_until = sut.redis.hget(health, "until")
        assert closed_until is not None
        pauses.append(int(closed_until) - ended)
        sut.redis.hset(health, "until", 0)  # time passes
        sut.redis.zadd("kelpie:{webhooks}:users", {USER: 0})
        sut.redis.zadd(f"kelpie:{{webhooks}}:lanes:{USER}", {"a.example:443": 0})
    assert pauses == [1000, 2000, 3000, 3000]


def test_too_many_waiting_deliveries_are_dropped_and_say_so(deliveries: Deliveries) -> None:
    few = deliveries.keeping(Keeping(max_queued=2))
    for number in range(3):
        assert put(few, f"a{number}")
    dropped = deliveries.get("a2", user_id=USER)
    assert dropped.status is DeliveryStatus.DROPPED
    assert "too many" in str(dropped.attempts[0].error)
    assert claimed(deliveries) == ["a0", "a1"]
    put(few, "b0", user=OTHER_USER)
    assert claimed(deliveries) == ["b0"]


def test_records_beyond_their_number_go_the_oldest_first_and_waiting_ones_stay(
    deliveries: Deliveries,
) -> None:
    few = deliveries.keeping(Keeping(settled_count=3))
    put(few, "waiting", receiver="b.example:443")
    [held] = claim(few, limit=1)
    for number in range(10):
        put(few, f"a{number}")
        fail(few, DONE, limit=2)
    found, _ = few.page(user_id=USER)
    assert [one.id for one in found] == ["a9", "a8", "waiting"]
    with pytest.raises(NotFoundError):
        few.get("a0", user_id=USER)
    assert few.begin(held, claim_ms=60_000) is not None


def test_pages_go_from_the_newest_to_the_oldest(deliveries: Deliveries) -> None:
    for number in range(7):
        put(deliveries, f"a{number}")
    put(deliveries, "b0", user=OTHER_USER)
    names, cursor = [], None
    for _ in range(10):
        page, cursor = deliveries.page(user_id=USER, page_size=3, cursor=cursor)
        assert len(page) <= 3
        names += [one.id for one in page]
        if cursor is None:
            break
    assert names == [f"a{number}" for number in reversed(range(7))]


def test_pages_are_filtered_by_job_and_status(deliveries: Deliveries) -> None:
    put(deliveries, "a0")
    fail(deliveries, DONE)
    put(deliveries, "a1")
    put(deliveries, "a2", job="another-job")
    assert [one.id for one in deliveries.page(user_id=USER, job_id=JOB)[0]] == ["a1", "a0"]
    assert [one.id for one in deliveries.page(user_id=USER, status=DeliveryStatus.QUEUED)[0]] == ["a2", "a1"]
    assert deliveries.page(user_id=USER, job_id="another-job", status=DeliveryStatus.DELIVERED) == ([], None)


def test_another_users_deliveries_do_not_exist(deliveries: Deliveries) -> None:
    put(deliveries, "a0")
    assert deliveries.page(user_id=OTHER_USER) == ([], None)
    assert deliveries.page(user_id=OTHER_USER, job_id=JOB) == ([], None)
    for call in (deliveries.get, deliveries.replay):
        with pytest.raises(NotFoundError):
            call("a0", user_id=OTHER_USER)


@pytest.mark.parametrize("name", ["", "a b", "x" * 200, "../a0", "a0\n", "{webhooks}"])
def test_what_is_no_id_does_not_exist(deliveries: Deliveries, name: str) -> None:
    for call in (deliveries.get, deliveries.replay):
        with pytest.raises(NotFoundError):
            call(name, user_id=USER)


@pytest.mark.parametrize("wrong", [{"page_size": 0}, {"page_size": 1001}, {"cursor": "x"}, {"cursor": "1\n"}])
def test_a_wrong_page_is_refused(deliveries: Deliveries, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        deliveries.page(user_id=USER, **wrong)


def test_a_replay_has_all_tries_again_and_goes_at_once(deliveries: Deliveries) -> None:
    put(deliveries, "a0")
    fail(deliveries, AWAY, patience=Patience(failures=1))  # the lane is closed now
    assert claim(deliveries) == []
    for _ in range(2):  # the first answer was lost
        replayed = deliveries.replay("a0", user_id=USER)
        assert replayed.status is DeliveryStatus.QUEUED
    assert fail(deliveries, Report(DeliveryStatus.FAILED, code=410)) == "a0"
    replayed = deliveries.replay("a0", user_id=USER)
    assert (replayed.tries, replayed.ended) == (0, None)
    assert fail(deliveries, DONE) == "a0"
    assert len(deliveries.get("a0", user_id=USER).attempts) == 3


def test_a_replay_of_what_is_being_tried_starts_no_second_try(deliveries: Deliveries) -> None:
    put(deliveries, "a0")
    [one] = claim(deliveries)
    deliveries.begin(one, claim_ms=60_000)
    deliveries.replay("a0", user_id=USER)
    assert claim(deliveries) == []
    deliveries.finish(one, DONE)
    assert claim(deliveries) == []


def test_the_history_of_tries_is_bounded(deliveries: Deliveries) -> None:
    put(deliveries, "a0")
    for number in range(60):
        fail(deliveries, Report(None, code=500, error=str(number)))
    attempts = deliveries.get("a0", user_id=USER).attempts
    assert [attempt.error for attempt in attempts] == [str(number) for number in range(10, 60)]


def test_a_job_that_is_forgotten_takes_its_deliveries_along(
    deliveries: Deliveries, sut: StoreUnderTest
) -> None:
    put(deliveries, "a0")
    fail(deliveries, DONE)
    put(deliveries, "a1")
    put(deliveries, "b0", job="another-job")
    deliveries.forget([JOB, "unknown"])
    deliveries.forget([])
    assert [one.id for one in deliveries.page(user_id=USER)[0]] == ["b0"]
    assert deliveries.page(user_id=USER, job_id=JOB) == ([], None)
    assert fail(deliveries, DONE) == "a1"  # what was to be told is told
    assert not sut.redis.exists("kelpie:{webhooks}:delivery:a0", "kelpie:{webhooks}:delivery:a1")
