"""``kelpie up``: everything on this machine."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType

import click

from kelpie.cli import exit_codes
from kelpie.cli.output import LONGEST_MESSAGE, safe
from kelpie.embedded.options import DEFAULT_QUEUE, Event, Options, Ready
from kelpie.embedded.platform import Platform
from kelpie.embedded.process_tree import adopt_orphans, kill_descendants
from kelpie.embedded.s3 import remove_sockets


@click.command(
    "up",
    epilog=f"""\b
Examples:
  kelpie up
  kelpie up --port 9000 --workers 4 --data ~/kelpie

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
    "--queue", default=DEFAULT_QUEUE, show_default=True, metavar="NAME", help="What the nodes serve."
)
def command(*, port: int, workers: int, data: Path, queue: str) -> int:
    """Run a broker, the API, an S3 server and nodes on this machine."""
    options = Options(data=str(data.resolve()), port=port, nodes=workers, queue=queue)
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
            click.echo(f"{name} ended with {code}; it starts again in {wait_s:g} s", err=True)
        case "started", {"name": name}:
            click.echo(f"{name} is back", err=True)
        case "replaced", {"name": name, "by": other}:
            click.echo(f"{name} asked to be replaced: {other} takes its place", err=True)
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
