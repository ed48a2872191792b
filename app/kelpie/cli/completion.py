"""``kelpie completion``: what a shell needs to complete the words of a command line."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from kelpie.cli import exit_codes

VARIABLE = "_KELPIE_COMPLETE"
"""In the environment of a call that asks for completions; click makes it of the program's name."""


@click.command(
    "completion",
    epilog=f"""\b
Examples:
  kelpie completion bash > ~/.local/share/bash-completion/completions/kelpie
  source <(kelpie completion zsh)      (in ~/.zshrc, after compinit)
  kelpie completion fish > ~/.config/fish/completions/kelpie.fish

{exit_codes.HELP}""",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script that makes a shell complete commands and options."""
    completion = get_completion_class(shell)
    if completion is None:
        raise AssertionError(f"click completes {shell}")
    click.echo(completion(ctx.find_root().command, {}, "kelpie", VARIABLE).source())
