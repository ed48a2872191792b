"""What a service answered is remembered, bounded, and asked for once at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kelpie.errors import UnavailableError
from kelpie.identity import answers
from kelpie.identity.answers import RETRY_S, Answers
from tests.waiting import wait_until


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Asker:
    """A service: its answers in turn, the last one for ever; an exception is raised."""

    def __init__(self, *says: Any) -> None:
        self.says = list(says)
        self.count = 0

    def __call__(self) -> Any:
        self.count += 1
        said = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        if isinstance(said, BaseException):
            raise said
        return said


DOWN = UnavailableError("it is down")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def made(clock: Clock, **how: Any) -> Answers[str]:
    settings: dict[str, Any] = {"keep_s": 60, "wait_s": 10, "outage_s": 600, "refusal_s": 5}
    return Answers("The service", clock=clock, **(settings | how))


def test_a_good_answer_is_used_until_its_time_is_over(clock: Clock) -> None:
    kept, ask = made(clock), Asker("yes")
    assert [kept.get("a", ask) for _ in range(3)] == ["yes"] * 3
    clock.now += 59.9
    assert (kept.get("a", ask), ask.count) == ("yes", 1)
    clock.now += 0.2
    assert (kept.get("a", ask), ask.count) == ("yes", 2)


def test_a_refusal_is_used_for_a_short_time_and_replaces_a_good_answer(clock: Clock) -> None:
    kept, ask = made(clock), Asker("yes", None)
    assert kept.get("a", ask) == "yes"
    clock.now += 61
    assert [kept.get("a", ask) for _ in range(3)] == [None] * 3
    assert ask.count == 2
    clock.now += 5.1
    assert (kept.get("a", ask), ask.count) == (None, 3)
    clock.now += 5.1
    with pytest.raises(UnavailableError):  # and no older good answer comes back
        kept.get("a", Asker(DOWN))


def test_subjects_are_kept_apart(clock: Clock) -> None:
    kept = made(clock)
    assert kept.get("a", Asker("of a")) == "of a"
    assert kept.get("b", Asker(None)) is None
    assert kept.get("a", Asker(None)) == "of a"


def test_an_outage_is_borne_for_a_while_without_asking_at_every_turn(clock: Clock) -> None:
    kept, ask = made(clock), Asker("yes", DOWN)
    kept.get("a", ask)
    clock.now += 61
    assert [kept.get("a", ask) for _ in range(4)] == ["yes"] * 4
    assert ask.count == 2
    clock.now += RETRY_S + 0.1
    assert (kept.get("a", ask), ask.count) == ("yes", 3)
    clock.now += 600
    with pytest.raises(UnavailableError, match="The service gives no answer"):
        kept.get("a", ask)


def test_an_outage_without_an_older_answer_is_no_refusal_and_is_not_remembered(clock: Clock) -> None:
    kept, ask = made(clock), Asker(DOWN, "yes")
    with pytest.raises(UnavailableError):
        kept.get("a", ask)
    assert kept.get("a", ask) == "yes"


def test_a_defect_is_an_outage_too(clock: Clock) -> None:
    with pytest.raises(UnavailableError):
        made(clock).get("a", Asker(ZeroDivisionError("secret")))


def test_both_rooms_are_bounded_and_refusals_push_no_good_answer_out(clock: Clock) -> None:
    kept, good = made(clock, capacity=3), Asker("yes")
    kept.get("good", good)
    for number in range(100):
        kept.get(f"bad-{number}", Asker(None))
    assert (kept.get("good", good), good.count) == ("yes", 1)
    assert len(kept._refused) == 3
    for number in range(10):
        kept.get(f"good-{number}", Asker("yes"))
        kept.get("good", good)  # in use: the last one to go
    assert good.count == 1
    assert len(kept._good) == 3


class Slow:
    """A service that answers when it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        assert self.go.wait(30)
        return "yes"


def together(count: int, call: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(call) for _ in range(count)]]


def test_who_asks_at_the_same_time_waits_for_one_answer() -> None:
    kept: Answers[str] = Answers("The service", keep_s=60, wait_s=30)
    slow = Slow()
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(kept.get, "a", slow) for _ in range(8)]
        wait_until(lambda: slow.count, "the service is asked")
        assert kept.get("b", Asker("of b")) == "of b"  # nobody else waits for it
        slow.go.set()
        assert [one.result() for one in waiting] == ["yes"] * 8
    assert slow.count == 1


def test_a_silent_service_hardly_holds_up_those_who_have_an_older_answer(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "PATIENCE_S", 0.02)
    kept, slow = made(clock, wait_s=3600), Slow()
    kept.get("a", Asker("older"))
    clock.now += 61
    assert kept.get("a", slow) == "older"
    assert kept.get("a", slow) == "older"  # without waiting: not yet
    clock.now += RETRY_S + 0.1
    assert kept.get("a", slow) == "older"
    assert slow.count == 1  # it is still being asked
    slow.go.set()
    wait_until(lambda: kept._asking == 0, "the answer has come after all")
    assert (kept.get("a", slow), slow.count) == ("yes", 1)


def test_a_service_that_never_answers_holds_nobody_up_for_longer_than_the_bound(clock: Clock) -> None:
    kept = made(clock, wait_s=0.05)
    slow = Slow()
    try:
        for _ in range(2):
            with pytest.raises(UnavailableError):
                kept.get("a", slow)
        assert slow.count == 2  # the next one asks anew rather than wait for what may never come
    finally:
        slow.go.set()


def test_an_answer_that_came_too_late_for_its_question_is_not_remembered(clock: Clock) -> None:
    kept = made(clock, wait_s=0.05)
    slow = Slow()
    with pytest.raises(UnavailableError):
        kept.get("a", slow)
    assert kept.get("a", Asker(None)) is None
    slow.go.set()
    wait_until(lambda: kept._asking == 0, "the late answer has come")
    assert kept.get("a", Asker("other")) is None


def test_the_number_of_open_questions_is_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_OPEN", 2)
    kept = made(clock, wait_s=0.02)
    slow = Slow()
    try:
        for subject in "abcd":
            with pytest.raises(UnavailableError):
                kept.get(subject, slow)
        assert slow.count == 2
    finally:
        slow.go.set()
    wait_until(lambda: kept._asking == 0, "both have ended")
    assert kept.get("e", Asker("yes")) == "yes"


def test_renewing_asks_anew_but_not_too_often(clock: Clock) -> None:
    kept, ask = made(clock), Asker("first", "second")
    kept.get("a", ask)
    assert (kept.renew("a", ask, min_age_s=30), ask.count) == ("first", 1)
    clock.now += 31
    assert (kept.renew("a", ask, min_age_s=30), ask.count) == ("second", 2)
    assert (kept.renew("a", ask, min_age_s=30), ask.count) == ("second", 2)
    assert (kept.get("a", ask), ask.count) == ("second", 2)


def test_renewing_in_an_outage_is_unavailable_while_the_older_answer_stays_good(clock: Clock) -> None:
    kept, ask = made(clock), Asker("first", DOWN)
    kept.get("a", ask)
    clock.now += 31
    for _ in range(3):
        with pytest.raises(UnavailableError):
            kept.renew("a", ask, min_age_s=30)
    assert ask.count == 2
    assert kept.get("a", ask) == "first"


def test_many_at_once_after_the_time_is_over_make_one_call(clock: Clock) -> None:
    kept, ask = made(clock), Asker("yes")
    kept.get("a", ask)
    clock.now += 61
    assert together(8, lambda: kept.get("a", ask)) == ["yes"] * 8
    assert ask.count == 2
