"""The blocks of code in README and docs, as a reader would copy them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
RUN_BY = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": ["python", "-c"]}
"""How a block of a language is run; other languages show what is read, not what is run."""

_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n\n?)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S
)


@dataclass(frozen=True)
class Snippet:
    """A block that can be run; ``reason`` says why it is not."""

    page: str
    line: int
    language: str
    code: str
    reason: str | None

    def filled(self, names: Mapping[str, str]) -> str:
        """The code with what a reader fills in."""
        return re.sub(r"\b(?:[A-Z]+_)*(?:ID|JOB)\b", lambda name: names.get(name[0], name[0]), self.code)


def snippets(page: Path) -> Iterator[Snippet]:
    """The blocks of a page in their order."""
    text = page.read_text()
    for block in _BLOCK.finditer(text):
        if block["language"] in RUN_BY:
            line = text.count("\n", 0, block.start("code"))
            where = str(page.relative_to(ROOT))
            yield Snippet(where, line, block["language"], block["code"], block["reason"])
