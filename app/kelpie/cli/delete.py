"""``kelpie delete``: delete jobs and their records."""

from __future__ import annotations

import click

from kelpie.cli import exit_codes
from kelpie.cli.each import each
from kelpie.cli.options import confirm, json_option, url_option
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
def command(*, job_ids: tuple[str, ...], yes: bool, as_json: bool, url: str | None) -> int:
    """Delete jobs and their records for good, whatever their status. Objects in buckets stay."""
    if not yes:
        confirm(f"Delete {len(job_ids)} job(s) for good?")
    with Client(url) as client:

        def one(job_id: str) -> str:
            client.purge(job_id)
            if not as_json:
                click.echo(f"{safe(job_id)} deleted")
            return job_id

        done, code = each(job_ids, one)
    if as_json:
        print_json({"deleted": done})
    return code
