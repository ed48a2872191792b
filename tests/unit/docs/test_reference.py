"""The reference pages say what the code does."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[3] / "docs"


def test_the_settings_reference_is_current() -> None:
    generator = runpy.run_path(str(DOCS / "settings_reference.py"))
    assert (DOCS / "reference" / "settings.md").read_text() == generator["render"](), "run `make docs`"
