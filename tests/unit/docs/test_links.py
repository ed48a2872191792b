"""Every link between pages leads somewhere, and the index leads to every page."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
INDEX = DOCS / "README.md"


def prose(page: Path) -> str:
    """The page without its blocks and spans of code, in which nothing is a link."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", "", text)


def links(page: Path) -> list[str]:
    """The relative links of the page."""
    found = re.findall(r"\]\(([^()\s]+)\)", prose(page))
    return [link for link in found if not re.match(r"[a-z][a-z0-9+.-]*:", link)]


def anchors(page: Path) -> set[str]:
    """What a link may name after # on the page: its headings as GitHub and most renderers write them."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.M | re.S)
    titles = re.findall(r"^#+ +(.*?) *$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def target(page: Path, link: str) -> Path:
    """The file or directory that a link of the page means."""
    path = unquote(link.partition("#")[0])
    return (page.parent / path).resolve() if path else page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_resolves(page: Path) -> None:
    for link in links(page):
        meant = target(page, link)
        assert meant.is_relative_to(ROOT), f"{link} leads out of the project"
        assert meant.exists(), f"{link} leads nowhere"
        anchor = link.partition("#")[2]
        assert not anchor or anchor in anchors(meant), f"{link}: no such heading"


def test_the_index_leads_to_every_page() -> None:
    meant = {target(INDEX, link) for link in links(INDEX)}
    assert {page for page in DOCS.rglob("*.md") if page != INDEX} <= meant


def test_the_readme_leads_to_the_index() -> None:
    assert INDEX in {target(ROOT / "README.md", link) for link in links(ROOT / "README.md")}
