"""Writes docs/reference/cli.md from the commands' own help: `make docs`. A test holds it current."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from kelpie.cli import cli

TARGET = Path(__file__).with_name("reference") / "cli.md"
WIDTH = 100


def render() -> str:
    """The page."""
    lines = [
        "# The command line",
        "",
        "What `--help` says, of every command; their [exit codes](exit-codes.md) are a page of their own.",
        "",
    ]
    for context in _contexts(click.Context(cli, info_name="kelpie", terminal_width=WIDTH)):
        lines += [f"## {context.command_path}", "", "```text", _help(context), "```", ""]
    return "\n".join(lines)


def _contexts(context: click.Context) -> Iterator[click.Context]:
    """The command and all below it."""
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            if command is not None and not command.hidden:
                yield from _contexts(
                    click.Context(command, parent=context, info_name=name, terminal_width=WIDTH)
                )


def _help(context: click.Context) -> str:
    said = context.command.get_help(context).replace("```", "'''")
    # The table of exit codes ends the help of every command; here it is a page of its own.
    said = said.partition("\n\n  Exit codes:")[0]
    return "\n".join(line.rstrip() for line in said.splitlines())


if __name__ == "__main__":
    TARGET.write_text(render())
