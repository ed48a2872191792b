"""The library that is preloaded into a node (machine.c), and the file that steers it."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

SOURCE = Path(__file__).with_name("machine.c")
_FORMAT = "<3q"


class Steering:
    """How far one machine's clocks are off, and how slow its disk is; changes count at once."""

    def __init__(self, library: Path, path: Path) -> None:
        path.write_bytes(bytes(struct.calcsize(_FORMAT)))
        self.environment = {"LD_PRELOAD": str(library), "FAULTS_CONTROL": str(path)}
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 0)
        self._values = [0, 0, 0]

    def jump(self, seconds: int) -> None:
        """The wall clock is off by so much."""
        self._set(0, seconds * 1_000_000_000)

    def suspend(self, seconds: float) -> None:
        """So much time went by of which only the clock knows that goes on while the machine sleeps."""
        self._set(1, self._values[1] + round(seconds * 1e9))

    def slow_disk(self, seconds: float) -> None:
        """Every use of a file takes so much longer."""
        self._set(2, round(seconds * 1e6))

    def close(self) -> None:
        """Let go of the file."""
        self._page.close()

    def _set(self, index: int, value: int) -> None:
        self._values[index] = value
        self._page[:] = struct.pack(_FORMAT, *self._values)
