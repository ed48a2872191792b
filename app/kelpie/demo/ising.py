"""A Monte-Carlo simulation of the two-dimensional Ising model at its critical point, with checkpoints.

``python -m kelpie.demo.ising --sweeps 5000`` reads and writes folders and knows nothing of Kelpie: it goes on
from ``ckpt/ising.npz`` when that is there, renews it about every second, and leaves its result in ``out``.

Metropolis updates of one checkerboard colour, then the other: spins of one colour do not interact, so each
half-sweep is one array operation. The random numbers of a sweep come from a counter-based generator (Philox)
at a counter that is the sweep's number: the state after n sweeps is a function of (seed, size, n) alone,
bit for bit, however often the run was interrupted.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPINS = "spins.npy"
MAGNETIZATION = "magnetization.npy"
CHECKPOINT = "ising.npz"
PROGRESS = "progress.json"

_CRITICAL_TEMPERATURE = 2.0 / np.log(1.0 + np.sqrt(2.0))  # in units of the coupling; Onsager 1944
_PROGRESS_S = 0.1


@dataclass(slots=True)
class Run:
    """The state after ``len(magnetization)`` sweeps."""

    seed: int
    spins: NDArray[np.int8]  # (size, size), each -1 or +1, periodic
    magnetization: list[float]  # per spin, after each sweep

    @classmethod
    def new(cls, seed: int, size: int) -> Run:
        """A hot start: every spin is random."""
        spins = _generator(seed, 0).integers(0, 2, (size, size), dtype=np.int8) * np.int8(2) - np.int8(1)
        return cls(seed, spins.astype(np.int8), [])

    @property
    def sweeps(self) -> int:
        """How many sweeps are done."""
        return len(self.magnetization)

    def sweep(self) -> None:
        """Offer every spin one flip."""
        size = self.spins.shape[0]
        uniform = _generator(self.seed, self.sweeps + 1).random((size, size), dtype=np.float32)
        for colour in _checkerboard(size):
            around = sum(np.roll(self.spins, shift, axis) for shift in (1, -1) for axis in (0, 1))
            aligned = self.spins * around  # in {-4, -2, 0, 2, 4}; a flip costs twice as much
            flip = colour & (uniform < _ACCEPTANCE[aligned + 4])
            self.spins = np.where(flip, -self.spins, self.spins)
        self.magnetization.append(float(self.spins.mean(dtype=np.float64)))

    def save(self, file: Path) -> None:
        """Replace ``file`` atomically; the temporary one lies beside its folder, which may be watched."""
        temporary = file.parent.parent / f".{file.name}.tmp"
        with temporary.open("wb") as output:
            np.savez(
                output,
                seed=self.seed,
                size=self.spins.shape[0],
                spins=np.packbits(self.spins > 0),
                magnetization=self.magnetization,
            )
        temporary.replace(file)

    @classmethod
    def load(cls, data: bytes) -> Run:
        """The state that a checkpoint holds."""
        with np.load(io.BytesIO(data), allow_pickle=False) as saved:
            size = int(saved["size"])
            up = np.unpackbits(saved["spins"], count=size * size).reshape(size, size).astype(np.int8)
            spins = up * np.int8(2) - np.int8(1)
            return cls(int(saved["seed"]), spins.astype(np.int8), saved["magnetization"].tolist())


_ACCEPTANCE = np.exp(-2.0 * np.arange(-4, 5) / _CRITICAL_TEMPERATURE).astype(np.float32)
_boards: dict[int, tuple[NDArray[np.bool_], NDArray[np.bool_]]] = {}


def _checkerboard(size: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The two colours of a board, as masks."""
    if size not in _boards:
        rows, columns = np.indices((size, size))
        black = (rows + columns) % 2 == 0
        _boards[size] = (black, ~black)
    return _boards[size]


def _generator(seed: int, sweep: int) -> np.random.Generator:
    """The random numbers of one sweep: 2^64 blocks of the counter away from those of any other."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, sweep, 0, 0]))


def simulate(
    folder: Path, *, seed: int, size: int, sweeps: int, checkpoint_s: float, job: str | None = None
) -> None:
    """Run, or go on, until ``sweeps`` are done; leave spins and magnetization in ``folder/out``.

    ``folder/progress.json`` tells onlookers how far it is. A checkpoint of another run is an error.
    """
    (folder / "ckpt").mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "ckpt" / CHECKPOINT
    run = Run.load(checkpoint.read_bytes()) if checkpoint.exists() else Run.new(seed, size)
    if (run.seed, run.spins.shape[0]) != (seed, size):
        raise SystemExit(f"{checkpoint} belongs to another run")
    resumed_at = run.sweeps
    saved = shown = time.monotonic()
    _show(folder, job, run.sweeps, resumed_at)
    while run.sweeps < sweeps:
        run.sweep()
        now = time.monotonic()
        if now - saved >= checkpoint_s:
            run.save(checkpoint)
            saved = now
        if now - shown >= _PROGRESS_S:
            _show(folder, job, run.sweeps, resumed_at)
            shown = now
    out = folder / "out"
    out.mkdir(exist_ok=True)
    np.save(out / SPINS, run.spins)
    np.save(out / MAGNETIZATION, np.asarray(run.magnetization))
    _show(folder, job, run.sweeps, resumed_at)


def _show(folder: Path, job: str | None, sweep: int, resumed_at: int) -> None:
    shown: dict[str, Any] = {"job": job, "sweep": sweep, "resumed_at": resumed_at}
    temporary = folder / f".{PROGRESS}.tmp"
    temporary.write_text(json.dumps(shown))
    temporary.replace(folder / PROGRESS)


def main() -> None:
    """Run the simulation that the command line describes."""
    parser = argparse.ArgumentParser(description="2-D Ising model at its critical point, with checkpoints.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", type=int, default=512, help="spins per side")
    parser.add_argument("--sweeps", type=int, default=1000)
    parser.add_argument("--checkpoint-s", type=float, default=1.0, help="seconds between checkpoints")
    parser.add_argument("--folder", type=Path, default=Path(), help="where ckpt and out are")
    given = parser.parse_args()
    simulate(
        given.folder.resolve(),
        seed=given.seed,
        size=given.size,
        sweeps=given.sweeps,
        checkpoint_s=given.checkpoint_s,
        job=os.environ.get("KELPIE_JOB_ID"),
    )


if __name__ == "__main__":
    main()
