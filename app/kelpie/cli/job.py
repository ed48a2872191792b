"""``kelpie job``: one job and its attempts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kelpie.cli import exit_codes
from kelpie.cli.options import json_option, url_option, wait_option
from kelpie.cli.output import (
    STATUS_STYLES,
    ago,
    cell,
    console,
    duration,
    print_json,
    progress,
    safe,
    size,
    table,
)
from kelpie.cli.waiting import wait_for
from kelpie.client import Client, Job
from kelpie.errors import InvalidInputError
from kelpie.job import FAILURES, Attempt, JobStatus, Sync, SyncEntry, from_iso, iso
from kelpie.transfers import PHASES, EntryTransfers, Transfers


@click.command(
    "job",
    epilog=f"""\b
Examples:
  kelpie job 5b2e0f4e-6a0e-4c53-9d0a-1f2f3a4b5c6d
  kelpie job ID --wait --json

{exit_codes.HELP}""",
)
@click.argument("job_id", metavar="ID")
@wait_option
@json_option
@url_option
def command(*, job_id: str, wait: bool, as_json: bool, url: str | None) -> int:
    """Show one job and its attempts."""
    with Client(url) as client:
        job = wait_for(client, job_id, quiet=as_json) if wait else client.job(job_id)
        attempts = client.attempts(job_id)
        moved = _transfers(client, job)
    if as_json:
        told = None if moved is None else moved.to_wire()
        print_json({**job.wire, "attempts": [attempt.to_wire() for attempt in attempts], "transfers": told})
    else:
        screen = console()
        screen.print(_facts(job, moved))
        if attempts:
            screen.print()
            screen.print(attempts_table(attempts))
            _print_stderr(screen, attempts)
    return exit_codes.FAILED if wait and job.status is not JobStatus.COMPLETED else exit_codes.OK


def _transfers(client: Client, job: Job) -> Transfers | None:
    """What was moved for the job; None when it moves nothing, or nobody can say."""
    if job.spec.plan == Sync():
        return None
    with suppress(InvalidInputError):  # an API of before does not know of transfers
        return client.transfers(job.id)
    return None


def attempts_table(attempts: Sequence[Attempt]) -> Table:
    """One row per attempt, oldest first."""
    shown = table("attempt", "node", "start", "lasted", "outcome", "exit", "reason")
    for one in attempts:
        lasted = ago(one.start) if one.end is None else duration((one.end - one.start) / 1000)
        shown.add_row(
            cell(one.attempt),
            cell(one.node),
            cell(iso(one.start)),
            cell(lasted),
            cell(one.outcome or "running"),
            cell(one.exit_code),
            cell(one.reason),
        )
    return shown


def _print_stderr(screen: Console, attempts: Sequence[Attempt]) -> None:
    """What the command of the last attempt that failed said at its end."""
    failed = [one for one in attempts if one.outcome in FAILURES]
    if failed and failed[-1].command_end.stderr_tail:
        last = failed[-1]
        screen.print(f"\nlast lines on stderr of attempt {last.attempt}:", style="bold")
        for line in (last.command_end.stderr_tail or "").splitlines():
            screen.print(Text("  " + safe(line)))


def _facts(job: Job, moved: Transfers | None) -> Table:
    facts = Table(box=None, pad_edge=False, show_header=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    spec = job.spec
    facts.add_row("id", cell(job.id))
    facts.add_row("status", cell(job.status, STATUS_STYLES[job.status]))
    if job.waiting_for:
        facts.add_row("waiting for", cell(job.waiting_for))
    facts.add_row("command", cell(shlex.join((spec.command, *spec.arguments))))
    facts.add_row("queue", cell(spec.container_group_id))
    facts.add_row("node", cell(job.machine_id))
    facts.add_row("attempt", cell(job.attempt))
    facts.add_row("failures", cell(f"{job.num_failures} of {spec.max_failures}"))
    if job.banned_nodes:
        facts.add_row("banned nodes", cell(" ".join(job.banned_nodes)))
    if job.on_hold:
        facts.add_row("on hold", cell("yes"))
    if spec.not_before is not None:
        facts.add_row("not before", cell(iso(spec.not_before)))
    if spec.max_runtime_s is not None:
        facts.add_row("max runtime", cell(duration(spec.max_runtime_s)))
    if spec.retry_backoff_s:
        facts.add_row("retry backoff", cell(duration(spec.retry_backoff_s)))
    if spec.priority:
        facts.add_row("priority", cell(spec.priority))
    for name, time_ms in (("created", job.created), ("started", job.started), ("ended", job.ended)):
        facts.add_row(name, cell(iso(time_ms)))
    _add_progress(facts, job.wire)
    facts.add_row("heartbeat", cell("–" if job.heartbeat is None else f"{ago(job.heartbeat)} ago"))
    for phase in PHASES:
        told = () if moved is None else getattr(moved.report, phase)
        for number, entry in enumerate(getattr(spec.plan, phase)):
            facts.add_row(phase, cell(_entry(entry)))
            if number < len(told):
                facts.add_row("", cell(_moved(told[number])))
    if spec.labels:
        facts.add_row("labels", cell(" ".join(f"{key}={value}" for key, value in spec.labels.items())))
    return facts


def _add_progress(facts: Table, wire: Mapping[str, Any]) -> None:
    """What the command says of its progress, if it does."""
    told = wire.get("progress")
    if not told:
        return
    facts.add_row("progress", cell(progress(wire)))
    if told.get("step") is not None:
        of = "" if told.get("total") is None else f" of {told['total']:,}"
        facts.add_row("step", cell(f"{told['step']:,}{of}"))
    metrics = (told.get("metrics") or {}).items()
    if metrics:
        facts.add_row("metrics", cell(" ".join(f"{name}={value:.6g}" for name, value in metrics)))
    for name, key in (("checkpoint", "checkpoint"), ("said so", "updated")):
        if told.get(key) is not None:
            facts.add_row(name, cell(f"{ago(from_iso(told[key]))} ago"))


def _moved(one: EntryTransfers) -> str:
    """What was moved for an entry, in a line."""
    others = {"already there": one.unchanged, "to go": one.waiting_files, "failed": one.failures}
    words = [f"{one.files:,} files", size(one.bytes), *(f"{n:,} {what}" for what, n in others.items() if n)]
    return f"{one.state}: {', '.join(words)}"


def _entry(entry: SyncEntry) -> str:
    location = f"s3://{entry.bucket}/{entry.prefix}"
    ends = (location, entry.local_path) if entry.direction == "download" else (entry.local_path, location)
    return " → ".join(ends) + (f"  ({entry.pattern})" if entry.pattern else "")
