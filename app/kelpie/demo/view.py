"""What the demo shows while it runs: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_LINE_EVERY_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """How things stand now."""

    status: str
    node: str | None
    attempt: int
    sweep: int  # of the running command
    stored: int | None  # the sweep of the last checkpoint in the bucket
    sweeps: int
    waiting_for: str | None


class View:
    """Tells the story; ``say`` is for what happens once, ``show`` for how things stand."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._start = time.monotonic()
        self._live = (
            Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        )
        self._last_line = 0.0

    def say(self, text: str, style: str = "") -> None:
        """One line, with the time since the start."""
        line = Text(f"{time.monotonic() - self._start:5.1f} s  ", style="dim")
        self.console.print(line.append(Text(text, style=style)))

    def show(self, now: Moment) -> None:
        """Redraw; without a terminal, a line every other second."""
        if self._live is not None:
            self._live.update(_panel(now), refresh=True)
        elif time.monotonic() - self._last_line >= _LINE_EVERY_S:
            self._last_line = time.monotonic()
            self.say(
                f"{now.status}: {100 * now.sweep // now.sweeps} % on {now.node or 'no node'}, "
                f"attempt {now.attempt}, checkpoint in the bucket: {_checkpoint(now)}"
            )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()


def _panel(now: Moment) -> Table:
    facts = Table.grid(padding=(0, 2))
    facts.add_row("progress", ProgressBar(total=now.sweeps, completed=now.sweep, width=60))
    facts.add_row("job", f"{now.status}" + (f", waiting for {now.waiting_for}" if now.waiting_for else ""))
    facts.add_row("node", f"{now.node or '–'}, attempt {now.attempt}")
    facts.add_row("sweep", f"{now.sweep:,} of {now.sweeps:,}")
    facts.add_row("in the bucket", f"checkpoint of {_checkpoint(now)}")
    return facts


def _checkpoint(now: Moment) -> str:
    return "none yet" if now.stored is None else f"sweep {now.stored:,}"
