"""Makes mutants of Lua sources: each is a script with one small change that a careless hand could make.

A mutant is named by its script and by the line before and after the change, so that it is found again when
the lines around it move.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One changed line of one script."""

    script: str
    line: int  # from 1
    before: str
    after: str

    @property
    def name(self) -> str:
        """Where it is and what it does, in one line."""
        return f"{self.script}.lua:{self.line}: {self.before or '(nothing)'}  ⟶  {self.after or '(nothing)'}"

    def text(self, source: str) -> str:
        """The whole mutated script."""
        lines = source.split("\n")
        old = lines[self.line - 1]
        indent = old[: len(old) - len(old.lstrip())]
        lines[self.line - 1] = indent + self.after
        return "\n".join(lines)


SWAPS: Sequence[tuple[str, str]] = (
    (r" <= ", " < "),
    (r" >= ", " > "),
    (r" < ", " <= "),
    (r" > ", " >= "),
    (r" == ", " ~= "),
    (r" ~= ", " == "),
    (r" and ", " or "),
    (r" or ", " and "),
    (r" \+ ", " - "),
    (r" - ", " + "),
    (r" \* ", " + "),
    (r"\bnot ", ""),
    (r"\bmath\.max\b", "math.min"),
    (r"\bmath\.min\b", "math.max"),
    (r"\btrue\b", "false"),
    (r"\bfalse\b", "true"),
    (r"'-inf'", "'(0'"),
    (r"'held'", "'expired'"),
    (r"'expired'", "'held'"),
    (r"'pending'", "'running'"),
    (r"'running'", "'pending'"),
    (r"'waiting'", "'leased'"),
    (r"'completed'", "'canceled'"),
    (r"'superseded'", "'closed'"),
    (r"'not_holder'", "'closed'"),
    (r"'closed'", "'not_holder'"),
    (r"'interrupted'", "'canceled'"),
    (r"'app_failed'", "'sync_failed'"),
    (r"\bjob\.node\b", "node"),
    (r"\bwall\b", "now"),
    (r"\bnow\b", "wall"),
)
"""What stands in the code, and what a mutant has instead."""

NUMBER = re.compile(r"(?<![\w.'\[])(\d+)(?![\w.'\]])")
CALL = re.compile(r"(?:[\w.]+)\(.*\)$")
CONDITION = re.compile(r"^((?:else)?if|while) (.*) (then|do)\b(.*)$")


def mutants_of(script: str, source: str) -> Iterator[Mutant]:
    """Every mutant of a script, in order of its lines.

    Comments, function headers and the clock of tests are left alone.
    """
    for number, line in enumerate(source.split("\n"), start=1):
        code = line.strip()
        if not code or code.startswith("--") or "VIRTUAL_CLOCK" in code or "virtual_ms" in code:
            continue
        code, _, comment = code.partition(" -- ")
        for after in dict.fromkeys(_changes(code)):
            if after != code:
                yield Mutant(script, number, code, f"{after} -- {comment}" if comment and after else after)


def _changes(code: str) -> Iterator[str]:
    if code.startswith(("local function", "function", "for ")):
        return
    if _is_statement(code):
        yield ""
    condition = CONDITION.match(code)
    if condition:
        word, test, then, rest = condition.groups()
        yield f"{word} not ({test}) {then}{rest}"
        if word != "while":
            yield f"{word} true {then}{rest}"
            yield f"{word} false {then}{rest}"
    for pattern, replacement in SWAPS:
        for found in re.finditer(pattern, code):
            yield code[: found.start()] + replacement + code[found.end() :]
    for found in NUMBER.finditer(code):
        value = int(found[1])
        # One more or less is a mistake that is made where things are counted; limits are halved.
        for other in (value + 1, value - 1) if value < 100 else (value // 2,):
            if other >= 0:
                yield code[: found.start(1)] + str(other) + code[found.end(1) :]


def _is_statement(code: str) -> bool:
    """Whether the line is one whole statement that can be left out: a call, or a change of something."""
    if code.count("(") != code.count(")") or code.startswith(("local ", "return", "if ", "elseif ")):
        return False
    return bool(CALL.match(code)) or bool(re.match(r"^[\w.\[\], #+]+ = .+$", code))
