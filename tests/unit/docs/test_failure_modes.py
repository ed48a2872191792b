"""The page of failure modes names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "concepts" / "failure-modes.md"


def test_every_test_that_the_page_names_exists() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    existing = set(re.findall(r"^ *def (test_\w+)", sources, re.MULTILINE))
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text()))
    assert named
    assert named - existing == set()


def test_every_line_is_held_by_a_test() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    held = [line for line in rows if not re.match(r"\| (what went wrong|---)", line)]
    assert len(held) > 40
    assert [line for line in held if "`test_" not in line] == []
