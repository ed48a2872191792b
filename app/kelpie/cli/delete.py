"""``kelpie delete``: delete jobs and their records."""

from __future__ import annotations

import click

from kelpie.cli import exit_codes
from kelpie.cli.options import json_option, url_option
from kelpie.cli.output import print_json, safe
from kelpie.client import Client


@click.command(
    "delete",
    epilog=f"""\b
Examples:
  kelpie delete 5b2e0f4e-6a0e-4c53-9d0a-1f2f3a4b5c6d
  kelpie jobs --status completed --json | jq -r '.[].id' | xargs kelpie delete --yes

{exit_codes.HELP}""",
)
@click.argument("job_ids", nargs=-1, required=True, metavar="ID...")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@url_option
def command(*, job_ids: tuple[str, ...], yes: bool, as_json: bool, url: str | None) -> None:
    """Delete jobs and their records for good, whatever their status. Objects in buckets stay."""
    if not yes:
        click.confirm(f"Delete {len(job_ids)} job(s) for good?", abort=True, err=True)
    with Client(url) as client:
        for job_id in job_ids:
            client.purge(job_id)
            if not as_json:
                click.echo(f"{safe(job_id)} deleted")
    if as_json:
        print_json({"deleted": job_ids})
