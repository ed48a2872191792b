"""``kelpie hold``, ``resume``, ``requeue``, ``unban``, ``prioritize``: what owners do to jobs that go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from kelpie.cli import exit_codes
from kelpie.cli.each import each
from kelpie.cli.options import json_option, url_option
from kelpie.cli.output import print_json, safe
from kelpie.client import Client, Job

Change = Callable[..., Job]


def _command(
    name: str, change: Change, done: str, text: str, examples: str, *options: Callable[[Any], Any]
) -> click.Command:
    """A command that makes one change to each of some jobs; ``options`` are handed on to ``change``."""

    def run(*, job_ids: tuple[str, ...], as_json: bool, url: str | None, **given: Any) -> int:
        with Client(url) as client:

            def one(job_id: str) -> Job:
                job = change(client, job_id, **given)
                if not as_json:
                    click.echo(f"{safe(job_id)} {done}")
                return job

            jobs, code = each(job_ids, one)
        if as_json:
            print_json([job.wire for job in jobs])
        return code

    run.__doc__ = text
    for decorate in (url_option, json_option, *options):
        run = decorate(run)
    run = click.argument("job_ids", nargs=-1, required=True, metavar="ID...")(run)
    return click.command(name, epilog=f"\b\nExamples:\n{examples}\n\n{exit_codes.HELP}")(run)


hold = _command(
    "hold",
    Client.hold,
    "held",
    "Keep jobs from being leased until they are resumed. A node that runs one goes on.",
    """\
  kelpie hold 5b2e0f4e-6a0e-4c53-9d0a-1f2f3a4b5c6d
  kelpie jobs --label sweep=7 --status pending --json | jq -r '.[].id' | xargs kelpie hold""",
)

resume = _command(
    "resume",
    Client.resume,
    "resumed",
    "Let jobs that were held be leased again.",
    "  kelpie resume 5b2e0f4e-6a0e-4c53-9d0a-1f2f3a4b5c6d",
)

requeue = _command(
    "requeue",
    Client.requeue,
    "requeued",
    "Open failed or canceled jobs again, without their failures and bans; end the pause of delayed ones.",
    """\
  kelpie requeue 5b2e0f4e-6a0e-4c53-9d0a-1f2f3a4b5c6d
  kelpie jobs --status failed --queue sims --json | jq -r '.[].id' | xargs kelpie requeue""",
)

unban = _command(
    "unban",
    Client.unban,
    "unbanned",
    "Let a node, or every node, have jobs again on which it failed.",
    """\
  kelpie unban 5b2e0f4e-6a0e-4c53-9d0a-1f2f3a4b5c6d
  kelpie unban --node node-3 5b2e0f4e-6a0e-4c53-9d0a-1f2f3a4b5c6d""",
    click.option("--node", metavar="NAME", help="Only this node; default: every node."),
)

prioritize = _command(
    "prioritize",
    Client.prioritize,
    "prioritized",
    "Give live jobs another priority: among those that wait, higher ones go first.",
    """\
  kelpie prioritize --priority 9 5b2e0f4e-6a0e-4c53-9d0a-1f2f3a4b5c6d
  kelpie jobs --label sweep=7 --json | jq -r '.[].id' | xargs kelpie prioritize --priority 0""",
    click.option(
        "--priority", type=click.IntRange(0, 255), required=True, help="0 to 255, higher goes first."
    ),
)
