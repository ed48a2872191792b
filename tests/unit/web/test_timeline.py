from __future__ import annotations

from kelpie.job import Attempt, Outcome
from kelpie_web.timeline import LEFT, MAX_ROWS, MIN_BAR, WIDTH, timeline


def test_attempts_are_bars_between_the_jobs_creation_and_now() -> None:
    attempts = [
        Attempt(1, "a", 1000, end=3000, outcome=Outcome.INTERRUPTED, last_heartbeat=2000),
        Attempt(2, "b", 3000),
    ]
    drawn = timeline(attempts, created=0, now=5000)
    assert drawn is not None
    first, second = drawn.bars
    assert (drawn.start, drawn.end) == (0, 5000)
    assert (first.x, first.width) == (LEFT + WIDTH / 5, WIDTH * 2 / 5)
    assert first.kept_width == WIDTH / 5  # until its last sign of life
    assert (second.outcome, second.ms, second.x + second.width) == ("running", 2000, LEFT + WIDTH)


def test_the_shortest_attempt_can_be_seen_and_stays_within_the_drawing() -> None:
    drawn = timeline([Attempt(1, "a", 0, end=0), Attempt(2, "b", 10**9, end=10**9)], created=0, now=10**9)
    assert drawn is not None
    assert all(bar.width == MIN_BAR and bar.x + bar.width <= LEFT + WIDTH for bar in drawn.bars)


def test_of_many_attempts_the_newest_are_drawn() -> None:
    attempts = [Attempt(n, "a", 1000 * n, end=1000 * n + 900) for n in range(1, 101)]
    drawn = timeline(attempts, created=0, now=10**6)
    assert drawn is not None
    assert (len(drawn.bars), drawn.hidden) == (MAX_ROWS, 100 - MAX_ROWS)
    assert drawn.bars[-1].attempt.attempt == 100
    assert drawn.start == drawn.bars[0].attempt.start


def test_clocks_that_disagree_draw_nothing_outside() -> None:
    drawn = timeline([Attempt(1, "a", 500, end=400)], created=600, now=450)
    assert drawn is not None
    [bar] = drawn.bars
    assert LEFT <= bar.x <= bar.x + bar.width <= LEFT + WIDTH
    assert bar.ms == 0


def test_without_attempts_there_is_nothing_to_draw() -> None:
    assert timeline([], created=0, now=1) is None
