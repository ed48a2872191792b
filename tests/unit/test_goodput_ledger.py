"""Where the benchmark of goodput says that time went."""

from __future__ import annotations

import pytest

from tests.bench.goodput_ledger import (
    BOUND,
    DETECTION,
    DOWNLOAD,
    LAG,
    START,
    UPLOAD,
    USEFUL,
    WAITING,
    Run,
    account,
    goodput,
    ideal,
)


def test_every_second_from_the_first_lease_to_the_end_is_accounted_for_once() -> None:
    # Steps of one second, a checkpoint every two. Of six steps the sixth's checkpoint was not stored in time.
    first = Run(start=0, end=13, killed=10, download_s=1, begun=3.5)
    first.steps = [(number, 3.5 + number) for number in range(1, 7)] + [
        (7, 10.2)
    ]  # the last one after its death
    never_began = Run(start=14, end=18, killed=16)
    last = Run(start=18.5, end=30, download_s=0.5, begun=20, resumed_at=4, finished=29)
    last.steps = [(number, 16.0 + number) for number in range(5, 13)]
    spent = account([first, never_began, last], checkpoint_every=2)
    assert spent == {
        USEFUL: 4 + 9,
        LAG: 2,  # steps 5 and 6
        BOUND: 0.5,  # what there was of step 7
        DETECTION: 3 + 2,
        START: 2.5 + 2 + 1,
        DOWNLOAD: 1 + 0.5,
        UPLOAD: 1,
        WAITING: 1 + 0.5,
    }
    assert sum(spent.values()) == last.end - first.start
    assert ideal(spent) == 13 / 13.5
    assert goodput(spent) == 13 / 28.5


def test_an_attempt_that_was_interrupted_by_nobody_is_not_passed_over() -> None:
    with pytest.raises(ValueError, match="attempt 1 was neither killed nor finished"):
        account([Run(start=0, end=5), Run(start=6, end=9, begun=6, finished=8)], checkpoint_every=2)
