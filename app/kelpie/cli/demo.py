"""``kelpie demo``: see a job survive the death of its node."""

from __future__ import annotations

import shutil
import signal
import tempfile
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from kelpie.cli import exit_codes
from kelpie.cli.job import attempts_table
from kelpie.cli.output import LONGEST_MESSAGE, console, safe
from kelpie.errors import KelpieError

if TYPE_CHECKING:
    from kelpie.demo.scenario import Result


@click.command(
    "demo",
    epilog=f"""\b
Examples:
  kelpie demo
  kelpie demo --data /tmp/kelpie-demo      (kept afterwards, with every log)

It takes about 45 seconds. The last line is `demo: verified …`, or `demo: FAILED …` with exit code 1.

{exit_codes.HELP}""",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="An empty or new folder to keep everything in; default: a temporary one, removed on success.",
)
def command(*, data: Path | None) -> int:
    """Start everything on this machine, compute, kill the node half-way, and verify the result.

    The job is a Monte-Carlo simulation with checkpoints. Another node resumes it, and its output in the
    bucket must be bit-identical with that of an uninterrupted run.
    """
    # Imported late: a shell that completes this command's options must not wait for numpy.
    from kelpie.demo.scenario import DemoFailed, run
    from kelpie.demo.view import View
    from kelpie.embedded.process_tree import adopt_orphans, kill_descendants
    from kelpie.embedded.s3 import remove_sockets

    if data is not None and data.exists() and any(data.iterdir()):
        raise click.UsageError(f"{data} is not empty; the demo starts from nothing")
    folder = Path(tempfile.mkdtemp(prefix="kelpie-demo-")) if data is None else data.resolve()
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    adopt_orphans()  # should even the guard be killed, what it leaves becomes ours
    screen = console()
    failure = ""
    try:
        with View(screen) as view:
            result = run(folder, view)
        _report(result)
    except (DemoFailed, KelpieError) as error:
        failure = safe(str(error), multiline=True, longest=LONGEST_MESSAGE)
    finally:
        kill_descendants()
        remove_sockets(folder / "s3")
        if data is None and not failure:
            shutil.rmtree(folder, ignore_errors=True)
    if failure:
        click.echo(f"demo: FAILED: {failure} (logs: {folder}/logs)")
        return exit_codes.FAILED
    click.echo(
        f"demo: verified: the output of {len(result.attempts)} attempts is bit-identical with that of an "
        f"uninterrupted run (sha256 {result.digest[:16]}…)"
    )
    return exit_codes.OK


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _report(result: Result) -> None:
    screen = console()
    loss = result.loss
    screen.print()
    screen.print(attempts_table(result.attempts))
    screen.print()
    redone = loss.killed_at - loss.resumed_at
    click.echo(
        f"Lost with the node: {redone:,} of {result.sweeps:,} sweeps were computed twice "
        f"({loss.redone_s:.1f} s), and the job waited {loss.waited_s:.1f} s for its lease to expire."
    )
