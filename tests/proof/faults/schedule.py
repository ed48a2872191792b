"""Which faults strike when: drawn from a seed, for each target apart, before anything runs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What is done to a part. Each is undone after its time, and the part is as before."""

    KILL_WORKER = "SIGKILL of a worker"
    LOSE_MACHINE = "loss of a node with its disk"
    KILL_COMMAND = "SIGKILL of a command"
    KILL_GUARDIAN = "SIGKILL of a guardian"
    TERM_WORKER = "SIGTERM of a worker"
    STOP_WORKER = "SIGSTOP of a worker"
    FREEZE_MACHINE = "SIGSTOP of a worker and its command"
    CUT_API = "partition from the API"
    CUT_STORE = "partition from S3"
    CUT_BOTH = "partition from both"
    SLOW_STORE = "slow link to S3"
    SLOW_DISK = "slow disk"
    FULL_DISK = "full disk"
    CLOCK_JUMP = "jump of the wall clock"
    SUSPEND = "suspended machine"
    KILL_API = "SIGKILL of the API"
    KILL_API_WORKER = "SIGKILL of one process of the API"
    STOP_API = "SIGSTOP of the API"
    KILL_BROKER = "SIGKILL of Valkey"
    STOP_BROKER = "SIGSTOP of Valkey"
    KILL_STORE = "SIGKILL of S3"
    STOP_STORE = "SIGSTOP of S3"


CONTROL, STORE = "control", "store"
"""The targets that are not nodes: API and Valkey, and S3."""

MOMENTS = ("leasing", "downloading", "running", "draining", "finalizing", "any")
"""States of an attempt in which a worker is struck; ``any``: whichever it is in."""

_WEIGHTS: Mapping[str, Mapping[Kind, int]] = {
    "node": {
        Kind.KILL_WORKER: 12,
        Kind.LOSE_MACHINE: 3,
        Kind.KILL_COMMAND: 5,
        Kind.KILL_GUARDIAN: 1,
        Kind.TERM_WORKER: 4,
        Kind.STOP_WORKER: 6,
        Kind.FREEZE_MACHINE: 5,
        Kind.CUT_API: 5,
        Kind.CUT_STORE: 5,
        Kind.CUT_BOTH: 3,
        Kind.SLOW_STORE: 3,
        Kind.SLOW_DISK: 3,
        Kind.FULL_DISK: 4,
        Kind.CLOCK_JUMP: 5,
        Kind.SUSPEND: 3,
    },
    CONTROL: {
        Kind.KILL_API: 3,
        Kind.KILL_API_WORKER: 3,
        Kind.STOP_API: 2,
        Kind.KILL_BROKER: 3,
        Kind.STOP_BROKER: 2,
    },
    STORE: {Kind.KILL_STORE: 3, Kind.STOP_STORE: 2},
}
_SERVER_SHARE = {CONTROL: 0.12, STORE: 0.06}

_SHORT_S = (0.1, 0.9)
_LONG_S = (2.3, 4.0)
"""Past a lease of two seconds."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong."""

    kind: Kind
    pause_s: float  # after the one before it on the same target
    hold_s: float  # how long it lasts
    moment: str = "any"  # what the target is doing then, if that can be awaited
    delay_s: float = 0.0  # after that moment began
    silent: bool = False  # of partitions: nothing is refused, nothing arrives
    amid_transfers: bool = False  # of kills: the link to S3 is slow until then
    amount: int = 0  # of clocks: seconds


def draw(seed: int, faults: int, nodes: Sequence[str], *, without: frozenset[Kind]) -> dict[str, list[Fault]]:
    """The faults of every target in their order; ``without`` those that this machine does not allow."""
    counts = {target: max(1, round(share * faults)) for target, share in _SERVER_SHARE.items()}
    left = max(0, faults - sum(counts.values()))
    for number, node in enumerate(nodes):
        counts[node] = left // len(nodes) + (number < left % len(nodes))
    return {target: _of(f"{seed} {target}", target, number, without) for target, number in counts.items()}


def _of(seed: str, target: str, number: int, without: frozenset[Kind]) -> list[Fault]:
    rng = random.Random(seed)
    weights = _WEIGHTS.get(target, _WEIGHTS["node"])
    kinds = [kind for kind in weights if kind not in without]
    pause_s = (0.5, 2.5) if target in _SERVER_SHARE else (0.2, 1.2)
    return [
        Fault(
            kind=rng.choices(kinds, [weights[kind] for kind in kinds])[0],
            pause_s=rng.uniform(*pause_s),
            hold_s=rng.uniform(*(_SHORT_S if rng.random() < 0.6 else _LONG_S)),
            moment=rng.choice(MOMENTS),
            delay_s=rng.choice([0.0, rng.uniform(0, 0.05), rng.uniform(0, 0.5)]),
            silent=rng.random() < 0.5,
            amid_transfers=rng.random() < 0.4,
            amount=rng.choice([-1, 1]) * rng.choice([2, 60, 3600, 86_400, 400 * 86_400]),
        )
        for _ in range(number)
    ]
