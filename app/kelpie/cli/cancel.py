"""``kelpie cancel``: end jobs."""

from __future__ import annotations

import click

from kelpie.cli import exit_codes
from kelpie.cli.each import each
from kelpie.cli.options import json_option, url_option
from kelpie.cli.output import print_json, safe
from kelpie.client import Client


@click.command(
    "cancel",
    epilog=f"""\b
Examples:
  kelpie cancel 5b2e0f4e-6a0e-4c53-9d0a-1f2f3a4b5c6d
  kelpie cancel --queue sims        (removes its pending jobs, cancels its running ones)

{exit_codes.HELP}""",
)
@click.argument("job_ids", nargs=-1, metavar="[ID]...")
@click.option("--queue", metavar="NAME", help="Every live job of this queue.")
@json_option
@url_option
def command(*, job_ids: tuple[str, ...], queue: str | None, as_json: bool, url: str | None) -> int:
    """End jobs: a running one is stopped on its node at its next heartbeat. The records stay."""
    if bool(job_ids) == bool(queue):
        raise click.UsageError("give job ids, or --queue NAME")
    with Client(url) as client:
        if queue:
            count = client.clear_group(queue)
            if as_json:
                print_json({"count": count})
            else:
                click.echo(f"{count} jobs removed or canceled")
            return exit_codes.OK

        def one(job_id: str) -> str:
            client.cancel(job_id)
            if not as_json:
                click.echo(f"{safe(job_id)} canceled")
            return job_id

        done, code = each(job_ids, one)
    if as_json:
        print_json({"canceled": done})
    return code
