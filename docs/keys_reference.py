"""Writes docs/reference/redis-keys.md from the table of keys.py: `make docs`. A test holds it current."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from kelpie.store import keys

TARGET = Path(__file__).with_name("reference") / "redis-keys.md"
HASHES = {
    "The hash `meta` of a queue": keys.META_FIELDS,
    "The hash of a job": keys.JOB_FIELDS,
    "The counters of a queue": keys.COUNTERS,
    "The hash of a scaling rule": keys.RULE_FIELDS,
    "The hash of a container group": keys.GROUP_FIELDS,
    "The hash of an API key": keys.KEY_FIELDS,
    "The hash of a webhook delivery": keys.DELIVERY_FIELDS,
}


def render() -> str:
    """The page."""
    lines = [
        "# Keys in Redis",
        "",
        "For reading while something is wrong, and for backups; whoever writes them by hand breaks promises.",
        "Times are in ms since 1970 UTC unless another unit is given. No key expires unless a TTL is given.",
        "",
        "| key | type | meaning |",
        "| --- | --- | --- |",
    ]
    lines += [f"| `{name}` | {kind} | {_plain(meaning)} |" for name, kind, meaning in _rows()]
    lines += [
        "",
        "`{queue}` is the number of the queue, which `kelpie:{registry}:queue_names` tells: short, as every",
        "job's keys begin with it. `kelpie:wake` is a channel: `<queue number> <jobs that became waiting>`.",
        "",
    ]
    for title, fields in HASHES.items():
        lines += [f"## {title}", "", "| field | meaning |", "| --- | --- |"]
        lines += [f"| `{field}` | {meaning} |" for field, meaning in fields.items()]
        lines.append("")
    return "\n".join(lines)


def _rows() -> Iterator[tuple[str, str, str]]:
    """The rows of the table in the docstring; what a row says goes on in lines whose name is blank."""
    _, _, table, _ = re.split(r"^=+  =+  =+$", keys.__doc__ or "", flags=re.M)
    row: list[str] = []
    for line in table.strip("\n").splitlines():
        if line.startswith(" "):
            row[2] += " " + line.strip()
            continue
        if row:
            yield row[0], row[1], row[2]
        row = re.split(r" {2,}", line, maxsplit=2)
    yield row[0], row[1], row[2]


def _plain(meaning: str) -> str:
    """What points into the sources points to the tables below; one kind of quotes for code."""
    meaning = re.sub(r"\bsee [A-Z]+(_FIELDS)?\b", "see below", meaning)
    return meaning.replace("``", "`").replace("|", r"\|")


if __name__ == "__main__":
    TARGET.write_text(render())
