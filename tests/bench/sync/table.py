"""What the benchmark prints: each table as soon as it is known, and all of them in short at the end."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.bench.figures import spread
from tests.bench.sync.moves import Run

GOALS = {"one": 1.1, "medium": 1.1, "small": 1.3}
PEAK_GOAL_MIB = 100
OURS = "kelpie"


@dataclass
class Findings:
    """What was seen."""

    judged: bool = True  # whether the sizes are those of the goals
    rows: list[str] = field(default_factory=list)
    shortfalls: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def short(self, what: str) -> None:
        """A goal was missed."""
        if self.judged:
            self.shortfalls.append(what)

    def table(self, title: str, by_peer: Mapping[str, Sequence[Run]], goal: float) -> None:
        """Print what everybody took for one workload, one way."""
        good = {name: runs for name, runs in by_peer.items() if runs and not any(run.failure for run in runs)}
        walls = {name: statistics.median(run.wall_s for run in runs) for name, runs in good.items()}
        others = {name: wall for name, wall in walls.items() if name != OURS}
        best = min(others, key=others.__getitem__, default="")
        print(
            f"\n{title}\n   {'':10} {'seconds':>8} {'± of it':>8} {'runs':>5} {'÷ best':>7} {'CPU s':>7}"
            f" {'peak MiB':>9}"
        )
        for name, runs in by_peer.items():
            if name not in good:
                self._failed(title, name, runs)
                continue
            ratio = f"{walls[name] / walls[best]:.2f}" if best else "–"
            print(
                f"   {name:10} {walls[name]:8.2f} {spread([run.wall_s for run in runs]):>8} {len(runs):5}"
                f" {ratio:>7} {_cpu_s(runs):7.2f} {_peak_mib(runs):9.0f}",
                flush=True,
            )
        if OURS not in good:
            return
        peak, ours = _peak_mib(good[OURS]), walls[OURS]
        row = f"{title:42} {ours:7.2f} s {_cpu_s(good[OURS]):6.2f} CPU s {peak:4.0f} MiB"
        if best:
            row += (
                f"   {ours / walls[best]:5.2f} × {best} ({walls[best]:.2f} s, {_cpu_s(good[best]):.2f} CPU s)"
            )
            if ours > goal * walls[best]:
                self.short(f"{title}: {ours / walls[best]:.2f} × {best}, the fastest peer; goal {goal}")
        self.rows.append(row)
        if peak > PEAK_GOAL_MIB:
            self.short(f"{title}: {peak:.0f} MiB at its peak, goal {PEAK_GOAL_MIB}")

    def _failed(self, title: str, name: str, runs: Sequence[Run]) -> None:
        failed = next((run for run in runs if run.failure), None)
        if failed is None:
            print(f"   {name:10} was not run: its put ended as above")
        elif failed.late and name != OURS:
            print(f"   {name:10} {failed.failure}")
        else:
            print(f"   {name:10} FAILED: {failed.failure}")
            self.failures.append(f"{title}: {name}: {failed.failure}")

    def summary(self) -> None:
        """Everything once more, in short."""
        print("\n== Kelpie beside the fastest peer: medians")
        for row in self.rows:
            print(f"   {row}")
        for each in self.shortfalls:
            print(f"   short: {each}")
        for each in self.failures:
            print(f"   FAILED: {each}")
        if self.judged and not self.shortfalls and not self.failures:
            print("   every goal was met")


def _cpu_s(runs: Sequence[Run]) -> float:
    return statistics.median(run.cpu_s for run in runs)


def _peak_mib(runs: Sequence[Run]) -> float:
    return max(run.peak_mib for run in runs)
