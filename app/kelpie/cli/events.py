"""``kelpie events``: what happens to jobs."""

from __future__ import annotations

import json

import click

from kelpie.cli import exit_codes
from kelpie.cli.options import url_option
from kelpie.cli.output import safe
from kelpie.client import Client
from kelpie.event_stream import GAP, Event
from kelpie.job import iso

ENDS = frozenset({"completed", "failed", "canceled", "purged"})


@click.command(
    "events",
    epilog=f"""\b
Examples:
  kelpie events                        (all that is kept)
  kelpie events -f                     (from now on, until Ctrl-C)
  kelpie events -f 5b2e0f4e-6a0e-4c53-9d0a-1f2f3a4b5c6d   (one job, until it ends)
  kelpie events -f --after 1764000000000-0-17 --json >>events.jsonl

{exit_codes.HELP}""",
)
@click.argument("job_id", metavar="[JOB]", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on as events happen, through lost connections.")
@click.option("--after", metavar="ID", help="Begin after the event of this id; 0: at the oldest.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line, as the API gives it.")
@url_option
def command(*, job_id: str | None, follow: bool, after: str | None, as_json: bool, url: str | None) -> None:
    """Show what happened to your jobs, or to one, the oldest first."""
    with Client(url) as client:
        for event in client.events(job_id, after=after, follow=follow):
            click.echo(json.dumps(dict(event.wire)) if as_json else _line(event))
            if follow and job_id is not None and event.type in ENDS:
                return


def _line(event: Event) -> str:
    if event.type == GAP:
        return "– older events are not kept any more –"
    node = "" if event.machine_id is None else f"  {safe(event.machine_id)}"
    attempt = f"  attempt {event.attempt}" if event.attempt else ""
    return f"{iso(event.time)}  {safe(event.job_id)}  {safe(event.type):<12}{attempt}{node}".rstrip()
