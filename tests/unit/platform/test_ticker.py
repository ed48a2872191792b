from __future__ import annotations

import threading

from kelpie.errors import UnavailableError
from kelpie.platform.ticker import Ticker
from tests.waiting import wait_until


class Script:
    """A tick that does what its script says, then finds nothing for ever."""

    def __init__(self, *results: int | Exception) -> None:
        self.results = list(results)
        self.calls = 0
        self.exhausted = threading.Event()

    def __call__(self) -> int:
        self.calls += 1
        if not self.results:
            self.exhausted.set()
            return 0
        result = self.results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result


def test_outages_and_defects_do_not_end_a_ticker() -> None:
    script = Script(UnavailableError("redis is away"), ValueError("a defect"), 1)
    ticker = Ticker("test", script, interval_s=0.01)
    ticker.start()
    wait_until(script.exhausted.is_set, "the ticks after the failures")
    ticker.stop(5)
    calls = script.calls
    assert not any(thread.name == "test" for thread in threading.enumerate())
    assert script.calls == calls


def test_a_tick_that_found_work_is_followed_by_the_next_at_once() -> None:
    script = Script(1, 1, 1)
    ticker = Ticker("test", script, interval_s=3600)
    ticker.start()
    wait_until(script.exhausted.is_set, "the tick that found nothing")
    ticker.stop(5)
    assert script.calls == 4
