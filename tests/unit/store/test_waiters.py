"""Who is woken, in this process, when jobs come."""

from __future__ import annotations

from kelpie.store.waiters import Waiter, Waiters

QUEUE = ("user", "group")


def asking(waiters: Waiters, count: int, queue: tuple[str, str] = QUEUE) -> list[Waiter]:
    made = [Waiter(queue) for _ in range(count)]
    for waiter in made:
        assert waiters.ask(waiter) == 0
    return made


def woken(polls: list[Waiter]) -> list[int]:
    return [i for i, waiter in enumerate(polls) if waiter.event.is_set()]


def test_as_many_are_woken_as_jobs_came_the_longest_waiting_first() -> None:
    waiters = Waiters()
    polls = asking(waiters, 5)
    others = asking(waiters, 2, ("user", "other"))
    waiters.wake(QUEUE, 2)
    assert woken(polls) == [0, 1]
    waiters.wake(QUEUE, 1)
    assert woken(polls) == [0, 1, 2]
    waiters.wake(QUEUE, 100)
    assert woken(polls) == [0, 1, 2, 3, 4]
    assert woken(others) == []


def test_a_wake_that_brought_nothing_is_passed_on_to_each_once() -> None:
    waiters = Waiters()
    polls = asking(waiters, 4)
    waiters.wake(QUEUE, 1)
    asked = []
    while now := woken(polls):
        (i,) = now
        asked.append(i)
        wake = waiters.ask(polls[i])
        assert wake
        waiters.pass_on(QUEUE, wake)
    assert asked == [0, 1, 2, 3]


def test_a_job_that_comes_while_a_poll_asks_wakes_it_again() -> None:
    waiters = Waiters()
    (poll,) = asking(waiters, 1)
    waiters.wake(QUEUE, 1)  # before the answer of the lease was there
    assert poll.event.is_set()


def test_who_leaves_hands_its_wake_to_the_next() -> None:
    waiters = Waiters()
    polls = asking(waiters, 2)
    waiters.wake(QUEUE, 1)
    waiters.leave(polls[0])
    assert woken(polls[1:]) == [0]
    waiters.leave(polls[1])
    assert waiters.queues() == []


def test_a_poll_that_asked_after_a_wake_is_not_chosen_for_it() -> None:
    waiters = Waiters()
    first, second = asking(waiters, 2)
    waiters.wake(QUEUE, 1)
    waiters.ask(second)  # it asked by itself, after the job came
    wake = waiters.ask(first)
    waiters.pass_on(QUEUE, wake)
    assert not first.event.is_set()
    assert not second.event.is_set()


def test_everybody_is_woken_after_a_gap() -> None:
    waiters = Waiters()
    polls = asking(waiters, 3) + asking(waiters, 2, ("user", "other"))
    waiters.wake_everybody()
    assert woken(polls) == [0, 1, 2, 3, 4]
