"""``kelpie drain``: empty a node, and keep it empty."""

from __future__ import annotations

import time

import click

from kelpie.cli import exit_codes
from kelpie.cli.options import json_option, url_option
from kelpie.cli.output import cell, console, print_json, safe, table
from kelpie.client import Client
from kelpie.job import JobStatus

_POLL_S = 1.0


@click.command(
    "drain",
    epilog=f"""\b
Examples:
  kelpie drain node-7 --wait           (until it holds no job)
  kelpie drain node-7 --queue sims     (only there)
  kelpie drain node-7 --undo
  kelpie drain                         (which nodes are drained?)

{exit_codes.HELP}""",
)
@click.argument("node", metavar="[NODE]", required=False)
@click.option("--queue", metavar="NAME", help="Only in this queue (container group).")
@click.option("--undo", is_flag=True, help="Let the node have jobs again.")
@click.option("--wait", is_flag=True, help="Wait until the node holds no job that a command runs for.")
@json_option
@url_option
def command(
    *, node: str | None, queue: str | None, undo: bool, wait: bool, as_json: bool, url: str | None
) -> None:
    """Give a node no further job, and have it hand back what it runs: the last checkpoint is stored, and the
    job goes to another node at once, uncounted. The worker stays, idle, until it is stopped or --undo."""
    with Client(url) as client:
        if node is None:
            if undo or wait or queue is not None:
                raise click.UsageError("Which node?")
            _list(client, as_json=as_json)
        elif undo:
            queues = client.undrain(node, queue=queue)
            if as_json:
                print_json({"machine_id": node, "container_group_ids": queues})
            else:
                where = f" in {', '.join(map(safe, queues))}" if queues else ": it was not drained"
                click.echo(f"{safe(node)} gets jobs again{where}")
        else:
            drained = client.drain(node, queue=queue)
            while wait and _holds_a_job(client, node, queue):
                time.sleep(_POLL_S)
            if as_json:
                print_json(drained)
            else:
                where = ", ".join(safe(one["container_group_id"]) for one in drained)
                click.echo(f"{safe(node)} is drained in {where}")


def _holds_a_job(client: Client, node: str, queue: str | None) -> bool:
    running = client.jobs(status=JobStatus.RUNNING, node=node, queue=queue, limit=1000)
    return any(job.machine_id == node and job.waiting_for is None for job in running)


def _list(client: Client, *, as_json: bool) -> None:
    nodes = client.drained()
    if as_json:
        print_json(nodes)
        return
    shown = table("node", "queue", "since")
    for one in nodes:
        shown.add_row(cell(one["machine_id"]), cell(one["container_group_id"]), cell(one["since"]))
    console().print(shown)
