"""The command line. Each subcommand is a click command named ``command`` in the module here of its name.

A subcommand is imported when it is called, so that the bare install, which has the client's packages only,
can run those that need no more, and say what the others need.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

import click
from click.shell_completion import CompletionItem

from kelpie.cli import exit_codes
from kelpie.errors import KelpieError


class _Entry(NamedTuple):
    """What is known of a subcommand before it is imported."""

    help: str
    extra: str | None = None  # of the distribution, without which it cannot run
    module: str | None = None  # that has several subcommands, under their names


COMMANDS = {
    "up": _Entry("Run everything on this machine: broker, API, S3 server and nodes.", "demo"),
    "demo": _Entry("See a job survive the death of its node.", "demo"),
    "submit": _Entry("Queue a job."),
    "jobs": _Entry("List jobs."),
    "job": _Entry("Show one job and its attempts."),
    "events": _Entry("See what happens to jobs."),
    "cancel": _Entry("End jobs."),
    "hold": _Entry("Keep jobs from being leased.", module="control"),
    "resume": _Entry("Let held jobs be leased again.", module="control"),
    "requeue": _Entry("Open failed or canceled jobs again.", module="control"),
    "unban": _Entry("Let nodes have jobs again on which they failed.", module="control"),
    "prioritize": _Entry("Give live jobs another priority.", module="control"),
    "delete": _Entry("Delete jobs and their records for good."),
    "drain": _Entry("Empty nodes, and keep them empty."),
    "logs": _Entry("Show what the commands of a job print."),
    "webhooks": _Entry("See what became of webhooks, and deliver them again."),
    "keys": _Entry("Make, list and revoke API keys, and see whose key this is."),
    "scaling": _Entry("Scale container groups with the length of their queues."),
    "data": _Entry("Copy folders to a bucket and back, as nodes do.", "worker"),
    "completion": _Entry("Print what makes a shell complete commands and options."),
    "api": _Entry("Run the HTTP API.", "server"),
    "platform": _Entry("Run what happens behind the scenes: webhooks, expired leases, scaling.", "server"),
    "worker": _Entry("Run the node worker.", "worker"),
}


class _LazyGroup(click.Group):
    """A group that imports a subcommand when it is called, and lists them without importing any."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        try:
            module = importlib.import_module(f"kelpie.cli.{entry.module or cmd_name}")
        except ModuleNotFoundError:
            if (
                ctx is not None and ctx.resilient_parsing
            ):  # completing: nothing is known of it, nothing is said
                return None
            raise
        command: click.Command = getattr(module, cmd_name if entry.module else "command")
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The subcommands that begin so; click's own way would import all of them."""
        return [
            CompletionItem(name, help=entry.help)
            for name, entry in COMMANDS.items()
            if name.startswith(incomplete)
        ] + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 -- as above
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


@click.group(
    cls=_LazyGroup,
    epilog=f"""\b
Examples:
  kelpie demo
  kelpie up --workers 4
  kelpie submit --queue sims --after /out:s3://bucket/out -- python sim.py --steps 1000
  kelpie jobs --status running

\b
Environment: KELPIE_API_URL (http://127.0.0.1:8080), KELPIE_API_KEY.

{exit_codes.HELP}""",
)
@click.version_option(package_name="kelpie-jobs", prog_name="kelpie")
def cli() -> None:
    """Kelpie shepherds long-running jobs to completion on machines that may vanish at any second."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command line and exit with one of the codes in exit_codes."""
    sys.exit(_run(list(sys.argv[1:] if argv is None else argv)))


def _run(argv: list[str]) -> int:
    try:
        code = cli.main(argv, prog_name="kelpie", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return exit_codes.INTERRUPTED
    except ModuleNotFoundError as error:
        return _missing(argv, error)
    except KelpieError as error:
        return _explain(error)
    except BrokenPipeError:
        # The reader (`| head`) has seen enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.FAILED
    return code if isinstance(code, int) else exit_codes.OK


def _explain(error: KelpieError) -> int:
    from kelpie.cli.output import explain

    explain(error)
    return exit_codes.code_of(error)


def _missing(argv: Sequence[str], error: ModuleNotFoundError) -> int:
    """A package of an extra is missing: say which extra brings it."""
    entry = next((COMMANDS[word] for word in argv if word in COMMANDS), None)
    if entry is None or entry.extra is None or (error.name or "").startswith("kelpie"):
        raise error
    click.echo(
        f"kelpie: this command needs {error.name}, which is not installed: "
        f"pip install 'kelpie-jobs[{entry.extra}]'",
        err=True,
    )
    return exit_codes.CONFIG
