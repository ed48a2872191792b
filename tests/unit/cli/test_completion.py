"""Shell completion: the words that a shell offers, and what is imported to find them."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kelpie.cli import COMMANDS
from kelpie.job import JobStatus


def completed(line: str, *, shell: str = "bash", missing: str = "") -> list[str]:
    """What is offered for the last word of a line, asked for as the shell's script asks."""
    words = line.split(" ")
    last = words[-1] if shell == "fish" else str(len(words) - 1)
    env = os.environ | {"_KELPIE_COMPLETE": f"{shell}_complete", "COMP_WORDS": line, "COMP_CWORD": last}
    script = "import sys; from kelpie.cli import main; main([])"
    if missing:
        script = f"import sys; sys.modules[{missing!r}] = None; {script}"
    said = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert said.stderr == ""
    offered = [entry for entry in said.stdout.splitlines() if entry]
    if shell == "zsh":  # type, word and help, a line each
        return offered[1::3]
    return [entry.partition(",")[2].partition("\t")[0] for entry in offered]


def test_every_subcommand_is_offered() -> None:
    assert completed("kelpie ") == list(COMMANDS)
    assert completed("kelpie re") == ["resume", "requeue"]
    assert completed("kelpie nonsense") == []
    assert completed("kelpie --v") == ["--version"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_is_offered_the_same(shell: str) -> None:
    assert completed("kelpie jo", shell=shell) == ["jobs", "job"]
    assert completed("kelpie jobs --la", shell=shell) == ["--label"]


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_subcommand_is_offered_its_options(name: str) -> None:
    offered = completed(f"kelpie {name} --")
    assert "--help" in offered


def test_options_and_their_values_are_offered() -> None:
    assert {"--max-runtime", "--not-before", "--retry-backoff"} <= set(completed("kelpie submit --"))
    assert completed("kelpie jobs --status ") == [status.value for status in JobStatus]
    assert completed("kelpie unban --n") == ["--node"]
    assert completed("kelpie completion ") == ["bash", "zsh", "fish"]


def test_a_subcommand_whose_packages_are_missing_has_no_options_and_complains_of_nothing() -> None:
    assert "--status" not in completed("kelpie jobs --", missing="rich")
    assert completed("kelpie ", missing="rich") == list(COMMANDS)


def test_nothing_heavy_is_imported_to_complete() -> None:
    heavy = {"boto3", "flask", "gevent", "numpy", "pydantic", "redis", "rq", "structlog", "watchdog"}
    script = (
        "import sys, click; from kelpie.cli import COMMANDS, cli\n"
        "from click.shell_completion import ShellComplete\n"
        "complete = ShellComplete(cli, {}, 'kelpie', '_KELPIE_COMPLETE').get_completions\n"
        "assert len(complete([], '')) == len(COMMANDS)\n"
        "ours = {name for name in sys.modules if name.startswith('kelpie.cli.')}\n"
        "assert ours == {'kelpie.cli.exit_codes'}, ours\n"
        "for name in COMMANDS: assert complete([name], '--'), name\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not heavy & set(said.stdout.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_its_shell_understands(shell: str) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "kelpie.cli", "completion", shell], capture_output=True, text=True, check=True
    )
    assert f"_KELPIE_COMPLETE={shell}_complete" in said.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=said.stdout, text=True, check=True)


def test_bash_completes_with_the_script(tmp_path: Path) -> None:
    program = tmp_path / "kelpie"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m kelpie.cli "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    script = (
        'eval "$(kelpie completion bash)"\n'
        "COMP_WORDS=(kelpie jobs --st); COMP_CWORD=2\n"
        "_kelpie_completion kelpie\n"
        'echo "${COMPREPLY[@]}"\n'
        "complete -p kelpie\n"
    )
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    said = subprocess.run(
        ["bash", "--norc", "-c", script], env=env, capture_output=True, text=True, check=True
    )
    offered, registered = said.stdout.splitlines()
    assert offered == "--status"
    assert "_kelpie_completion" in registered
    assert said.stderr == ""
