"""``kelpie up``: everything on this machine."""

from __future__ import annotations

import signal
import uuid
from pathlib import Path
from types import FrameType

import click
from click.core import ParameterSource

from kelpie.cli import exit_codes
from kelpie.cli.output import LONGEST_MESSAGE, safe
from kelpie.embedded.options import (
    DEFAULT_MAX_NODES,
    DEFAULT_QUEUE,
    SCALED_QUEUE,
    Autoscale,
    Event,
    Options,
    Ready,
)
from kelpie.embedded.platform import Platform
from kelpie.embedded.process_tree import adopt_orphans, kill_descendants
from kelpie.embedded.s3 import remove_sockets


@click.command(
    "up",
    epilog=f"""\b
Examples:
  kelpie up
  kelpie up --port 9000 --workers 4 --data ~/kelpie
  kelpie up --autoscale --max 8        (no node while there is no job, one per job up to 8)

Everything listens on the loopback. Jobs, keys and buckets are kept in the data folder and are back after a
restart. Ctrl-C stops all of it in order: the nodes hand their jobs back first. A second Ctrl-C: at once.

{exit_codes.HELP}""",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Of the API.")
@click.option("--workers", type=click.IntRange(0, 64), default=2, show_default=True, help="How many nodes.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("kelpie-data"),
    show_default=True,
    help="The folder that everything is kept in.",
)
@click.option(
    "--queue",
    metavar="NAME",
    help=f"What the nodes serve; {DEFAULT_QUEUE}, or with --autoscale a UUID that is printed.",
)
@click.option("--autoscale", is_flag=True, help="Start and end nodes as the queue needs them.")
@click.option(
    "--min", "low", type=click.IntRange(0, 64), metavar="N", help="With --autoscale: nodes at least; 0."
)
@click.option(
    "--max", "high", type=click.IntRange(1, 64), metavar="N", help="With --autoscale: nodes at most; 4."
)
@click.pass_context
def command(
    ctx: click.Context,
    *,
    port: int,
    workers: int,
    data: Path,
    queue: str | None,
    autoscale: bool,
    low: int | None,
    high: int | None,
) -> int:
    """Run a broker, the API, an S3 server and nodes on this machine."""
    rule = None
    if autoscale:
        if ctx.get_parameter_source("workers") is not ParameterSource.DEFAULT:
            raise click.UsageError("--autoscale decides how many nodes there are: give --max, not --workers")
        rule = _rule(low, high)
        queue = _uuid(queue) if queue is not None else SCALED_QUEUE
    elif low is not None or high is not None:
        raise click.UsageError("--min and --max go with --autoscale")
    options = Options(
        data=str(data.resolve()), port=port, nodes=workers, queue=queue or DEFAULT_QUEUE, autoscale=rule
    )
    adopt_orphans()  # should even the guard be killed, what it leaves becomes ours
    stops = _Stops()
    platform = Platform(options)
    click.echo(f"Starting Kelpie in {safe(options.data)} …", err=True)
    platform.launch()
    try:
        return _attend(platform, stops)
    finally:
        kill_descendants()
        remove_sockets(data / "s3")


def _rule(low: int | None, high: int | None) -> Autoscale:
    low = 0 if low is None else low
    high = max(low, DEFAULT_MAX_NODES) if high is None else high
    if low > high:
        raise click.BadParameter(f"{low} is above --max {high}", param_hint="--min")
    return Autoscale(min_nodes=low, max_nodes=high)


def _uuid(queue: str) -> str:
    try:
        return str(uuid.UUID(queue))
    except ValueError:
        raise click.BadParameter(
            f"{queue!r} is not a UUID; a queue that is scaled has one (uuidgen makes one)",
            param_hint="--queue",
        ) from None


class _Stops:
    """How often somebody asked us to stop: Ctrl-C, SIGTERM, or the terminal was closed."""

    def __init__(self) -> None:
        self.count = 0
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, self._on_signal)

    def _on_signal(self, _signal: int, _frame: FrameType | None) -> None:
        self.count += 1


def _attend(platform: Platform, stops: _Stops) -> int:
    """Show what happens until the platform has ended; the exit code that says how it did."""
    heeded = 0
    while True:
        if stops.count > heeded:
            heeded += 1
            if heeded == 1:
                platform.ask_to_stop()
            else:
                platform.ask_to_kill()
        event = platform.next_event(0.2)
        if event is not None:
            _show(event, platform)
            if event.kind == "failed":
                platform.stop()
                return exit_codes.CONFIG
            if event.kind == "stopped":
                platform.stop()
                return exit_codes.OK
        elif not platform.running:
            click.echo(f"kelpie up: the guard was killed; see {platform.options.data}/logs", err=True)
            return exit_codes.FAILED


def _show(event: Event, platform: Platform) -> None:
    match event.kind, event.data:
        case "ready", _:
            click.echo(_welcome(platform.ready, platform.options))
        case "exited", {"name": name, "code": code, "restart_in_s": wait_s}:
            log = f"{platform.options.data}/logs/{name}.log"
            click.echo(f"{name} ended with {code}; it starts again in {wait_s:g} s. See {log}", err=True)
        case "started", {"name": name}:
            click.echo(f"{name} is back", err=True)
        case "replaced", {"name": name, "by": other}:
            click.echo(f"{name} asked to be replaced: {other} takes its place", err=True)
        case "joined", {"name": name, "nodes": nodes}:
            click.echo(f"{name} starts; nodes: {nodes}", err=True)
        case "left", {"name": name, "nodes": nodes}:
            click.echo(f"{name} has ended; nodes: {nodes}", err=True)
        case "stopping", _:
            click.echo("Stopping; the nodes hand their jobs back (Ctrl-C again: at once) …", err=True)
        case "stopped", _:
            click.echo("Stopped.", err=True)
        case "failed", {"message": message}:
            click.echo(f"kelpie up: {safe(message, multiline=True, longest=LONGEST_MESSAGE)}", err=True)
        case _:
            return


def _welcome(ready: Ready, options: Options) -> str:
    """What to know and what to type first; the lines may be pasted into a shell."""
    nodes = ", ".join(ready.nodes) or "none"
    if (rule := options.autoscale) is not None:
        nodes = f"{rule.min_nodes} to {rule.max_nodes} as the queue needs them"
    return f"""
Kelpie is up.  API {ready.url}  (docs: {ready.url}/docs)
               S3  {ready.s3_endpoint}  bucket {ready.bucket}
               nodes {nodes}, queue {ready.queue}, logs {safe(options.data)}/logs

In another terminal:

  export KELPIE_API_URL={ready.url}
  export KELPIE_API_KEY={ready.key}
  kelpie submit --queue {ready.queue} --after out:s3://{ready.bucket}/hello --wait -- \\
      sh -c 'mkdir -p out && echo hello from $KELPIE_JOB_ID > out/hello.txt'
  kelpie jobs

For S3 tools, such as `aws s3 ls s3://{ready.bucket}/hello/`:

  export AWS_ENDPOINT_URL_S3={ready.s3_endpoint} AWS_REGION={ready.s3_region}
  export AWS_ACCESS_KEY_ID={ready.s3_access_key} AWS_SECRET_ACCESS_KEY={ready.s3_secret_key}

Ctrl-C stops everything; the data stays in {safe(options.data)}.
"""
