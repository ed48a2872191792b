"""Where the time of a job went: from what its commands noted, its history, and when its nodes were killed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

USEFUL = "useful"
BOUND = "redo: since the last checkpoint was written"
LAG = "redo: written, not stored in time"
DETECTION = "detection"
START = "start"
DOWNLOAD = "download"
UPLOAD = "upload"
WAITING = "waiting for a node"

LOSSES = (DETECTION, START, DOWNLOAD, BOUND, LAG, UPLOAD)
"""What a node spends on a job besides useful work, but for waiting, when no node has the job."""


@dataclass
class Run:
    """One attempt. Times are seconds since 1970; None: it did not come to that."""

    start: float  # of the lease
    end: float  # in the history
    killed: float | None = None
    download_s: float = 0.0  # from the lease's arrival to the command's start, by the worker's log
    begun: float | None = None  # the command's own first word
    resumed_at: int = 0  # the step that it went on from
    steps: list[tuple[int, float]] = field(default_factory=list)  # number and end of each step done
    finished: float | None = None  # the command's own last word


Spent = dict[str, float]
"""Seconds by what they were spent on."""


def nothing() -> Spent:
    """To add to."""
    return dict.fromkeys((USEFUL, *LOSSES, WAITING), 0.0)


def account(runs: Sequence[Run], checkpoint_every: int) -> Spent:
    """From the first lease of a job that completed to its last end. ValueError."""
    spent = nothing()
    for index, run in enumerate(runs):
        stopped = run.killed if run.killed is not None else run.finished
        if stopped is None:
            raise ValueError(f"attempt {index + 1} was neither killed nor finished: {run}")
        spent[DETECTION if run.killed is not None else UPLOAD] += run.end - stopped
        if run.begun is None or run.begun >= stopped:
            spent[START] += stopped - run.start
        else:
            spent[DOWNLOAD] += run.download_s
            spent[START] += run.begun - run.start - run.download_s
            _account_command(run, _goes_on_from(runs[index + 1 :]), stopped, checkpoint_every, spent)
        if index + 1 < len(runs):
            spent[WAITING] += runs[index + 1].start - run.end
    return spent


def _account_command(run: Run, kept: int | None, stopped: float, checkpoint_every: int, spent: Spent) -> None:
    """``kept``: the last step that the next command did not do again; None: all of this one's count."""
    assert run.begun is not None
    if kept is None:
        spent[USEFUL] += stopped - run.begun
        return
    ends = {number: end for number, end in run.steps if end <= stopped}
    useful_until = max((end for number, end in ends.items() if number <= kept), default=run.begun)
    written = max((number for number in ends if number % checkpoint_every == 0), default=None)
    written_until = max(useful_until, run.begun if written is None else ends[written])
    spent[USEFUL] += useful_until - run.begun
    spent[LAG] += written_until - useful_until
    spent[BOUND] += stopped - written_until


def _goes_on_from(later: Sequence[Run]) -> int | None:
    for run in later:
        if run.begun is not None:
            return run.resumed_at
    return None


def ideal(spent: Spent) -> float:
    """What the schedule allows at best: work that was in no checkpoint when its node was killed is lost."""
    return spent[USEFUL] / (spent[USEFUL] + spent[BOUND])


def goodput(spent: Spent) -> float:
    """Useful ÷ all that nodes spent on the jobs."""
    return spent[USEFUL] / (spent[USEFUL] + sum(spent[loss] for loss in LOSSES))
