"""The reference pages say what the code does."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

from kelpie.cli import exit_codes

DOCS = Path(__file__).parents[3] / "docs"


def test_the_settings_reference_is_current() -> None:
    generator = runpy.run_path(str(DOCS / "settings_reference.py"))
    assert (DOCS / "reference" / "settings.md").read_text() == generator["render"](), "run `make docs`"


def test_the_metrics_reference_is_current() -> None:
    generator = runpy.run_path(str(DOCS / "metrics_reference.py"))
    assert (DOCS / "reference" / "metrics.md").read_text() == generator["render"](), "run `make docs`"


def test_the_exit_codes_of_the_help_are_those_of_the_page() -> None:
    page = (DOCS / "reference" / "exit-codes.md").read_text()
    assert re.findall(r"^\| (\d+) ", page, re.M) == re.findall(r"^ +(\d+)  ", exit_codes.HELP, re.M)
