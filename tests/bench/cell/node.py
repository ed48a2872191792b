"""A simulated node: it polls, beats, reports and backs off as a worker does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kelpie_worker.backoff import Backoff
from kelpie_worker.heartbeat import _BEATS_PER_INTERVAL as BEATS_PER_INTERVAL
from kelpie_worker.loop import _UNREACHABLE_PAUSE_S as UNREACHABLE_PAUSE_S
from kelpie_worker.reporter import RETRY_S
from tests.bench.cell.server import DOWN

if TYPE_CHECKING:
    from tests.bench.cell.fleet import Fleet

FIRST_BEAT_S = 0.2  # the first pause after a heartbeat in vain


class Node:
    """One node: it polls until it has a job, and beats while it has it."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        self.fleet = fleet
        self.api = fleet.draw.choice(fleet.cell.apis)  # its connection stays
        self.queue = number % fleet.load.queues
        self.holds = False
        self.jobs = 0
        self.asked_s = 0.0  # its poll, or the wake of it
        self.poll = 0  # number of its poll
        self.served_s = -1.0  # when it was last answered
        self._renewed_s = 0.0
        self._unreachable = Backoff(*UNREACHABLE_PAUSE_S)

    def ask(self) -> None:
        """Poll."""
        fleet = self.fleet
        self.poll += 1
        self.asked_s = fleet.events.now_s
        cost = fleet.costs.empty_poll  # what finding a job costs beyond that, take() adds
        fleet.cell.ask("poll", self.api, cost, lambda: fleet.take(self.queue), self._answered)

    def _answered(self, found: object) -> None:
        if found is DOWN:
            self.fleet.events.after(self._unreachable.pause_s(), self.ask)
            return
        self._unreachable.reset()
        self.served_s = self.fleet.events.now_s
        if found:
            self.grant()
        else:
            self.fleet.wait(self)

    def grant(self) -> None:
        """It has a job."""
        fleet = self.fleet
        fleet.cell.note("lease", self.asked_s)
        self.begin(fleet.draw.expovariate(1 / fleet.load.job_s))

    def begin(self, lasting_s: float, first_beat_s: float = 0.0) -> None:
        """Work on a job for so long."""
        self.holds = True
        self.jobs += 1
        self._renewed_s = self.fleet.events.now_s
        period_s = self.fleet.load.interval_s / BEATS_PER_INTERVAL
        beats = Backoff(min(FIRST_BEAT_S, period_s), period_s)
        self.fleet.events.after(first_beat_s, self._beat, self.jobs, beats, period_s)
        self.fleet.events.after(lasting_s, self._report, self.jobs, Backoff(*RETRY_S))

    def _beat(self, job: int, beats: Backoff, period_s: float) -> None:
        if not self.holds or job != self.jobs:
            return

        def answered(found: object) -> None:
            if found is DOWN:
                pause_s = beats.pause_s()
            else:
                pause_s, self.served_s = period_s, self.fleet.events.now_s
                beats.reset()
            self.fleet.events.after(pause_s, self._beat, job, beats, period_s)

        self.fleet.cell.ask("heartbeat", self.api, self.fleet.costs.heartbeat, self._renew, answered)

    def _renew(self) -> bool:
        self.fleet.renewed(self._renewed_s)
        self._renewed_s = self.fleet.events.now_s
        return True

    def _report(self, job: int, tries: Backoff) -> None:
        def answered(found: object) -> None:
            if found is DOWN:
                self.fleet.events.after(tries.pause_s(), self._report, job, tries)
            else:
                self.ask()

        def finish() -> bool:
            self._renew()
            self.holds = False
            return True

        self.fleet.cell.ask("report", self.api, self.fleet.costs.report, finish, answered)
