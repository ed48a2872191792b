"""``kelpie logs``: what the commands of a job printed."""

from __future__ import annotations

import json
import sys

import click

from kelpie.cli import exit_codes
from kelpie.cli.options import url_option
from kelpie.cli.output import safe
from kelpie.client import Client, LogLine
from kelpie.job import MAX_LOG_LINE_CHARS, LogStream, iso

_TAB = 8


@click.command(
    "logs",
    epilog=f"""\b
Examples:
  kelpie logs 5b2e0f4e-6a0e-4c53-9d0a-1f2f3a4b5c6d
  kelpie logs -f --tail 100 ID         (until the job ends)
  kelpie logs --attempt 3 --stderr ID
  kelpie logs --raw ID >output.txt     (as it was printed, terminal codes too)

{exit_codes.HELP}""",
)
@click.argument("job_id", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on as lines come, until the job has ended.")
@click.option("--tail", type=click.IntRange(1, 1000), metavar="N", help="Begin N lines before the end.")
@click.option("--after", metavar="LINE", help="Begin after this line, such as 2-1500.")
@click.option("--attempt", type=int, metavar="N", help="Only lines of this attempt.")
@click.option("--stderr", "only", flag_value=LogStream.STDERR.value, help="Only lines from stderr.")
@click.option("--stdout", "only", flag_value=LogStream.STDOUT.value, help="Only lines from stdout.")
@click.option("-t", "--timestamps", is_flag=True, help="Say when each line was printed.")
@click.option("--raw", is_flag=True, help="Write control characters as they are: a terminal obeys them.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line, as the API gives it.")
@url_option
def command(
    *,
    job_id: str,
    follow: bool,
    tail: int | None,
    after: str | None,
    attempt: int | None,
    only: str | None,
    timestamps: bool,
    raw: bool,
    as_json: bool,
    url: str | None,
) -> None:
    """Show what the commands of a job printed, on all its nodes, as far as it is kept."""
    shown_attempt = 0
    with Client(url) as client:
        for line in client.logs(job_id, after=after, tail=tail, follow=follow):
            if (attempt is not None and line.attempt != attempt) or only not in (None, line.stream):
                continue
            if as_json:
                click.echo(json.dumps(dict(line.wire)))
                continue
            if line.attempt and line.attempt != shown_attempt:
                shown_attempt = line.attempt
                click.echo(f"── attempt {shown_attempt} ──", err=True)
            _print(line, timestamps=timestamps, raw=raw)


def _print(line: LogLine, *, timestamps: bool, raw: bool) -> None:
    when = f"{iso(line.time)}  " if timestamps and line.id else ""
    if raw:
        sys.stdout.buffer.write(f"{when}{line.text}\n".encode("utf-8", "replace"))
        sys.stdout.buffer.flush()
    else:
        click.echo(when + safe(line.text.expandtabs(_TAB), longest=MAX_LOG_LINE_CHARS * _TAB))
