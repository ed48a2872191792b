"""The reference pages say what the code does."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import click
import pytest

from kelpie.cli import COMMANDS, cli, exit_codes
from kelpie.config import Settings
from kelpie.job import TRANSITIONS, JobStatus

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("page", ["settings", "metrics", "cli", "keys"])
def test_a_generated_page_is_current(page: str) -> None:
    generator = runpy.run_path(str(DOCS / f"{page}_reference.py"))
    assert generator["TARGET"].read_text() == generator["render"](), "run `make docs`"


def test_the_exit_codes_of_the_help_are_those_of_the_page() -> None:
    page = (DOCS / "reference" / "exit-codes.md").read_text()
    assert re.findall(r"^\| (\d+) ", page, re.M) == re.findall(r"^ +(\d+)  ", exit_codes.HELP, re.M)


def test_the_moves_of_the_states_page_are_those_that_scripts_may_make() -> None:
    page = (DOCS / "concepts" / "states.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (`\w+`(?:, `\w+`)*) \| ", page, re.M)
    drawn = {(before, after) for before, afters in rows for after in re.findall(r"\w+", afters)}
    assert drawn == {(before, after) for before, afters in TRANSITIONS.items() for after in afters}
    statuses = page.partition("Who moves a job:")[0]
    assert set(re.findall(r"^\| `(\w+)` \| ", statuses, re.M)) == set(JobStatus)


def test_the_commands_and_settings_that_the_pages_name_exist() -> None:
    page = (DOCS / "how-to" / "jobs.md").read_text()
    commands = set(re.findall(r"`kelpie ([a-z]+)", page))
    assert commands
    assert commands <= set(COMMANDS)
    for name, options in re.findall(r"^kelpie (\w+)((?: .*)?)$", page, re.M):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r" (--\w[\w-]*)", options.partition(" -- ")[0])) <= known
    assert "KELPIE_RETENTION_DAYS" in page
    assert "retention_days" in Settings.model_fields
