"""``kelpie submit``: queue a job."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any

import click

from kelpie.cli import exit_codes
from kelpie.cli.options import duration, json_option, moment, pairs, url_option, wait_option
from kelpie.cli.output import print_json, safe
from kelpie.cli.waiting import wait_for
from kelpie.client import Client, Job, job_spec
from kelpie.errors import InvalidInputError
from kelpie.job import JobStatus, WebhookEvent

_MAX_FILE_BYTES = 64 * 1024 * 1024


@click.command(
    "submit",
    context_settings={"allow_interspersed_args": False},
    epilog=f"""\b
Examples:
  kelpie submit --queue sims -- python sim.py --steps 1000
  kelpie submit --queue sims --before s3://b/in:/input --during /ckpt:s3://b/ck \\
      --before s3://b/ck:/ckpt --after /out:s3://b/out --env SEED=7 --wait -- python sim.py
  kelpie submit --queue sims --not-before 2h --max-runtime 3d --retry-backoff 10m -- python sim.py
  kelpie submit --file job.json        (one job, or an array of up to 1000)

A `during` folder that the command resumes from needs a `before` entry too: that brings the last checkpoint.

{exit_codes.HELP}""",
)
@click.option("--queue", metavar="NAME", help="The queue (container group) whose nodes run it.")
@click.option("--before", multiple=True, metavar="S3:DIR", help="Download: s3://bucket/prefix:/folder.")
@click.option("--during", multiple=True, metavar="DIR:S3", help="Upload changes: /folder:s3://bucket/prefix.")
@click.option("--after", multiple=True, metavar="DIR:S3", help="Upload at the end, likewise.")
@click.option(
    "--env",
    "environment",
    multiple=True,
    metavar="K=V",
    callback=pairs("NAME=VALUE"),
    help="A variable of the command's environment.",
)
@click.option(
    "--label", "labels", multiple=True, metavar="K=V", callback=pairs("NAME=VALUE"), help="A label."
)
@click.option("--max-failures", type=click.IntRange(1), help="Failures that end the job (3).")
@click.option(
    "--heartbeat-interval", type=click.IntRange(1), metavar="S", help="Seconds (30); a lease is two of them."
)
@click.option("--priority", type=click.IntRange(0, 255), help="Higher goes first (0).")
@click.option(
    "--max-runtime",
    "max_runtime_s",
    callback=duration,
    metavar="TIME",
    help="Of one attempt, from lease to report; a longer one has failed. 90s, 2h, 3d.",
)
@click.option(
    "--not-before",
    callback=moment,
    metavar="WHEN",
    help="Not leased earlier: 2h from now, or an ISO-8601 time.",
)
@click.option(
    "--retry-backoff",
    "retry_backoff_s",
    callback=duration,
    metavar="TIME",
    help="The pause after a failure (none); each further one doubles it, up to a day.",
)
@click.option("--webhook", metavar="URL", help="Told when the job runs, completes and fails.")
@click.option(
    "--webhook-event",
    "webhook_events",
    multiple=True,
    type=click.Choice([event.value for event in WebhookEvent]),
    help="Told of this instead; may be given several times.",
)
@click.option("--compression", is_flag=True, help="Gzip the objects.")
@click.option(
    "--idempotency-key",
    metavar="KEY",
    help="The same job under the same key, within a day, is queued once. Default: a new one.",
)
@click.option("--file", "file", type=click.File("rb"), help="The job as JSON; - reads standard input.")
@wait_option
@json_option
@url_option
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND [ARGUMENT]...]")
def command(
    *,
    argv: tuple[str, ...],
    file: IO[bytes] | None,
    wait: bool,
    idempotency_key: str | None,
    as_json: bool,
    url: str | None,
    **given: Any,
) -> int:
    """Queue a job: a command, the data it needs, and the data it makes."""
    described = {name: value for name, value in given.items() if value}
    if file is not None and (argv or described):
        raise click.UsageError("--file holds the whole job: give no other option of it, and no command")
    if file is None and not argv:
        raise click.UsageError("which command? Write it after --, or give --file")
    if file is None and not given["queue"]:
        raise click.UsageError("which queue? Give --queue NAME")
    wanted = _read(file) if file is not None else job_spec(argv, **described)
    with Client(url) as client:
        many = isinstance(wanted, list)
        jobs = (
            client.submit_many(wanted, idempotency_key=idempotency_key)
            if isinstance(wanted, list)
            else [client.submit_job(wanted, idempotency_key=idempotency_key)]
        )
        if wait:
            if not as_json:
                _say(jobs, err=True)
            jobs = [wait_for(client, job.id, quiet=as_json) for job in jobs]
    if as_json:
        print_json([job.wire for job in jobs] if many else jobs[0].wire)
    elif wait:
        for job in jobs:
            click.echo(f"{job.id} {job.status}")
    else:
        _say(jobs)
    good = not wait or all(job.status is JobStatus.COMPLETED for job in jobs)
    return exit_codes.OK if good else exit_codes.FAILED


def _say(jobs: list[Job], *, err: bool = False) -> None:
    for job in jobs:
        click.echo(safe(job.id), err=err)


def _read(file: IO[bytes]) -> Mapping[str, Any] | list[Mapping[str, Any]]:
    """The job, or the jobs, that a JSON file describes."""
    data = file.read(_MAX_FILE_BYTES + 1)
    if len(data) > _MAX_FILE_BYTES:
        raise InvalidInputError(f"the file is larger than {_MAX_FILE_BYTES >> 20} MiB")
    try:
        wanted = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"the file is not JSON: {error}") from error
    if isinstance(wanted, dict):
        return wanted
    if isinstance(wanted, list) and all(isinstance(one, dict) for one in wanted):
        return wanted
    raise InvalidInputError("the file must hold a JSON object, or an array of objects")
