"""How the command line shows data. What users and nodes wrote may hold anything; the terminal sees text."""

from __future__ import annotations

import json
import os
import sys
import textwrap
import time
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kelpie.errors import InvalidInputError, KelpieError, UnauthenticatedError
from kelpie.job import JobStatus, from_iso

_PIPE_WIDTH = 220  # columns when the output is not a terminal: nobody wraps it
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_LONGEST = 500  # characters of one value
LONGEST_MESSAGE = 5000  # characters of an error, which may hold the end of a log

STATUS_STYLES = {
    JobStatus.PENDING: "cyan",
    JobStatus.RUNNING: "yellow",
    JobStatus.COMPLETED: "green",
    JobStatus.FAILED: "red",
    JobStatus.CANCELED: "magenta",
}


def explain(error: KelpieError) -> None:
    """Say on stderr what was refused, and why."""
    index = error.index if isinstance(error, InvalidInputError) else None
    where = "" if index is None else f" (job {index} of the batch, counted from 0)"
    if isinstance(error, UnauthenticatedError) and not os.environ.get("KELPIE_API_KEY"):
        where = " KELPIE_API_KEY is not set: export your key in it."
    click.echo(f"kelpie: {safe(str(error), multiline=True, longest=LONGEST_MESSAGE)}{where}", err=True)
    if isinstance(error, InvalidInputError):
        for path, message in error.errors:
            click.echo(f"  {safe(path)}: {safe(message)}", err=True)


def console() -> Console:
    """Where tables go: as wide as the terminal, or wide enough for a file or a pipe."""
    terminal = sys.stdout.isatty()
    return Console(width=None if terminal else _PIPE_WIDTH, highlight=False, emoji=False, markup=False)


def print_json(data: Any) -> None:
    """One JSON document, in ASCII, so that no control character reaches the terminal."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=True))


def print_json_array(items: Iterable[Any]) -> None:
    """The same for an array of any length: each item is printed as it comes.

    An error before the first prints nothing; a later one leaves the array open, so that it is no JSON.
    """
    opened = False
    for item in items:
        text = json.dumps(item, indent=2, ensure_ascii=True)
        click.echo((",\n" if opened else "[\n") + textwrap.indent(text, "  "), nl=False)
        opened = True
    click.echo("\n]" if opened else "[]")


def safe(text: str, *, multiline: bool = False, longest: int = _LONGEST) -> str:
    r"""The text with every control, format and surrogate character written as an escape like ``\x1b``.

    A terminal obeys escape codes, and direction marks make text read as other text. Bounded in length.
    """
    shown = "".join(
        char
        if char == " " or (multiline and char == "\n") or unicodedata.category(char)[0] not in "CZ"
        else char.encode("unicode_escape").decode()
        for char in text[:longest]
    )
    return shown + "…" if len(text) > longest else shown


def cell(value: object, style: str = "") -> Text:
    """A value as a table shows it: never markup, an en dash for nothing."""
    return Text("–" if value is None else safe(str(value)), style=style)


def table(*columns: str) -> Table:
    """An open table with these headings."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        made.add_column(name, no_wrap=name in {"id", "status", "age"}, overflow="fold")
    return made


def ago(time_ms: int | None) -> str:
    """How long ago, in the two largest units."""
    return "–" if time_ms is None else duration(max(0.0, time.time() - time_ms / 1000))


def progress(wire: Mapping[str, Any]) -> str | None:
    """How far a job is and how long it may take, of a job as the API tells it; None: it does not say."""
    told = wire.get("progress")
    if not told:
        return None
    parts = []
    if told.get("fraction") is not None:
        parts.append(f"{100 * told['fraction']:.3g}%")
    elif told.get("step") is not None:
        parts.append(f"step {told['step']:g}")
    if told.get("eta") is not None:
        left_s = (from_iso(told["eta"]) or 0) / 1000 - time.time()
        parts.append(f"{duration(max(0.0, left_s))} left")
    return ", ".join(parts) or None


def duration(seconds: float) -> str:
    """A duration in its two largest units: 3d4h, 2h05m, 1m12s, 8s."""
    total = int(seconds)
    minutes, hours, days = total // 60, total // 3600, total // 86400
    if days:
        return f"{days}d{hours % 24}h"
    if hours:
        return f"{hours}h{minutes % 60:02}m"
    return f"{minutes}m{total % 60:02}s" if minutes else f"{total}s"


def size(count: float) -> str:
    """Bytes in their largest unit."""
    for unit in _UNITS[:-1]:
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} {_UNITS[-1]}"
