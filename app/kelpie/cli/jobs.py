"""``kelpie jobs``: list jobs."""

from __future__ import annotations

from typing import Any

import click

from kelpie.cli import exit_codes
from kelpie.cli.options import json_option, pairs, url_option
from kelpie.cli.output import STATUS_STYLES, ago, cell, console, print_json, progress, table
from kelpie.client import Client
from kelpie.job import JobStatus


@click.command(
    "jobs",
    epilog=f"""\b
Examples:
  kelpie jobs
  kelpie jobs --status failed --queue sims --limit 1000
  kelpie jobs --label sweep=7 --label model=ising --text temperature
  kelpie jobs --node node-3 --status running
  kelpie jobs --json | jq -r '.[].id'

Secrets in environments and arguments are masked here, not in `kelpie job`.

{exit_codes.HELP}""",
)
@click.option("--status", type=click.Choice([status.value for status in JobStatus]), help="Only these.")
@click.option("--queue", metavar="NAME", help="Only of this queue.")
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="K=V",
    callback=pairs("NAME=VALUE"),
    help="Only with this label; may be given several times.",
)
@click.option("--node", metavar="NAME", help="Only those that this node was given.")
@click.option(
    "--text",
    metavar="TEXT",
    help="Only with this in the id, the command, its arguments, the queue or a label.",
)
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="How many.")
@click.option("--oldest", is_flag=True, help="The oldest first.")
@json_option
@url_option
def command(
    *, status: str | None, limit: int, oldest: bool, as_json: bool, url: str | None, **filters: Any
) -> None:
    """List jobs, the newest first."""
    with Client(url) as client:
        jobs = client.jobs(
            status=JobStatus(status) if status else None, limit=limit, ascending=oldest, **filters
        )
    if as_json:
        print_json([job.wire for job in jobs])
        return
    if not jobs:
        click.echo("No jobs.")
        return
    shown = table("status", "id", "queue", "attempt", "failures", "node", "progress", "age")
    for job in jobs:
        shown.add_row(
            cell(job.status, STATUS_STYLES[job.status]),
            cell(job.id),
            cell(job.spec.container_group_id),
            cell(job.attempt),
            cell(f"{job.num_failures}/{job.spec.max_failures}"),
            cell(job.machine_id),
            cell(progress(job.wire)),
            cell(ago(job.created)),
        )
    console().print(shown)
