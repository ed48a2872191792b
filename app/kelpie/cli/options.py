"""Options and argument forms that several subcommands share."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import click

wait_option = click.option(
    "--wait",
    is_flag=True,
    help="Wait for the end; exit code 1 unless it completes. Without --json, stderr tells how it stands.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, as the API gives it.")

url_option = click.option(
    "--url", metavar="URL", help="The API; default KELPIE_API_URL, or http://127.0.0.1:8080."
)


def pairs(name: str) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], dict[str, str]]:
    """A click callback that turns repeated ``NAME=VALUE`` into a dict; ``name`` is what to call a pair."""

    def parse(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, Any]:
        parsed = {}
        for text in given:
            key, equals, value = text.partition("=")
            if not equals or not key:
                raise click.BadParameter(f"{text!r} is not {name}", ctx=ctx, param=param)
            parsed[key] = value
        return parsed

    return parse


def confirm(question: str) -> None:
    """Ask on the terminal before something that cannot be undone; a no is ``click.Abort``."""
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort:
        if sys.stdin.isatty():  # Ctrl-C
            raise
        click.echo(err=True)
        raise click.UsageError("nobody answers here: give --yes") from None
    if not agreed:
        raise click.Abort


_UNITS_S = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile("".join(rf"(?:(?P<{unit}>\d{{1,9}}){unit})?" for unit in _UNITS_S), re.ASCII)


def duration(ctx: click.Context, param: click.Parameter, text: str | None) -> int | None:
    """A click callback for a duration of a second or more; in seconds."""
    if text is None:
        return None
    seconds = seconds_of(text)
    if not seconds:
        problem = f"{text!r} is no duration of a second or more; write 90s, 15m, 2h, 3d, 1d12h or seconds"
        raise click.BadParameter(problem, ctx=ctx, param=param)
    return seconds


def moment(ctx: click.Context, param: click.Parameter, text: str | None) -> int | None:
    """A click callback for a time, ISO-8601 with its offset, or a duration from now; in ms since 1970."""
    if text is None:
        return None
    seconds = seconds_of(text)
    if seconds is not None:
        return int(1000 * (time.time() + seconds))
    try:
        given = datetime.fromisoformat(text)
        if given.tzinfo is not None:
            return round(given.timestamp() * 1000)
    except (ValueError, OverflowError):
        pass
    problem = f"{text!r} is no time; write 2h, or 2027-01-31T08:00:00Z with the offset"
    raise click.BadParameter(problem, ctx=ctx, param=param)


def seconds_of(text: str) -> int | None:
    """The seconds of a duration like ``1d12h`` or ``90``; None when the text is none."""
    if re.fullmatch(r"\d{1,12}", text, re.ASCII):
        return int(text)
    parts = _DURATION.fullmatch(text)
    if parts is None or not text:
        return None
    return sum(int(parts[unit] or 0) * seconds for unit, seconds in _UNITS_S.items())
