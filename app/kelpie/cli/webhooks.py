"""``kelpie webhooks``: what became of webhooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from kelpie.cli import exit_codes
from kelpie.cli.each import each
from kelpie.cli.options import json_option, url_option
from kelpie.cli.output import ago, cell, console, print_json, safe, table
from kelpie.client import Client
from kelpie.job import from_iso

STATUSES = ("queued", "delivered", "failed", "refused", "dropped")
STYLES = {"queued": "yellow", "delivered": "green", "failed": "red", "refused": "red", "dropped": "magenta"}


@click.group(
    "webhooks",
    epilog=f"""\b
Examples:
  kelpie webhooks list --status failed
  kelpie webhooks show kelpie-3-1764000000000-0
  kelpie webhooks replay kelpie-3-1764000000000-0
  kelpie webhooks list --status failed --json | jq -r '.[].id' | xargs kelpie webhooks replay
  kelpie webhooks rotate-secret

{exit_codes.HELP}""",
)
def command() -> None:
    """See what became of webhooks, deliver them again, and replace the secret that signs them."""


@command.command("list")
@click.option("--job", "job_id", metavar="ID", help="Only about this job.")
@click.option("--status", type=click.Choice(STATUSES), help="Only these.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="How many.")
@json_option
@url_option
def listing(*, job_id: str | None, status: str | None, limit: int, as_json: bool, url: str | None) -> None:
    """List deliveries, the newest first."""
    with Client(url) as client:
        found = client.deliveries(job_id=job_id, status=status, limit=limit)
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("No deliveries.")
        return
    shown = table("status", "id", "job", "event", "tries", "last answer", "age")
    for one in found:
        shown.add_row(
            cell(one["status"], STYLES.get(one["status"], "")),
            cell(one["id"]),
            cell(one["job_id"]),
            cell(one["event"]),
            cell(len(one["attempts"])),
            cell(_answer(one["attempts"][-1]) if one["attempts"] else None),
            cell(ago(from_iso(one["created"]))),
        )
    console().print(shown)


@command.command("show")
@click.argument("delivery_id", metavar="ID")
@json_option
@url_option
def show(*, delivery_id: str, as_json: bool, url: str | None) -> None:
    """Show one delivery and every try of it."""
    with Client(url) as client:
        one = client.delivery(delivery_id)
    if as_json:
        print_json(one)
        return
    screen = console()
    facts = table("", "")
    facts.show_header = False
    for name in ("id", "status", "event", "job_id", "url", "created", "ended", "next_try"):
        facts.add_row(
            cell(name, "bold"), cell(one[name], STYLES.get(one[name], "") if name == "status" else "")
        )
    screen.print(facts)
    if one["attempts"]:
        tries = table("try", "time", "answer")
        for number, attempt in enumerate(one["attempts"], 1):
            tries.add_row(cell(number), cell(attempt["time"]), cell(_answer(attempt)))
        screen.print()
        screen.print(tries)


@command.command("replay")
@click.argument("delivery_ids", nargs=-1, required=True, metavar="ID...")
@json_option
@url_option
def replay(*, delivery_ids: tuple[str, ...], as_json: bool, url: str | None) -> int:
    """Deliver again, at once. Receivers see the same webhook-id, so they can drop what they have seen."""
    with Client(url) as client:

        def one(delivery_id: str) -> dict[str, Any]:
            delivery = client.replay(delivery_id)
            if not as_json:
                click.echo(f"{safe(delivery['id'])} queued")
            return delivery

        replayed, code = each(delivery_ids, one)
    if as_json:
        print_json(replayed)
    return code


@command.command("rotate-secret")
@json_option
@url_option
def rotate(*, as_json: bool, url: str | None) -> None:
    """Replace the secret that signs your webhooks; for a day the old one signs beside it."""
    with Client(url) as client:
        secret = client.rotate_webhook_secret()
    if as_json:
        print_json({"webhook_secret": secret})
    else:
        click.echo(safe(secret))


def _answer(attempt: Mapping[str, Any]) -> str:
    return str(attempt["error"] or attempt["status_code"] or "–")
