"""The tool that makes mutants works: a sample of them is caught, and what is listed as equivalent exists."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kelpie.store.scripts import read_lua
from tests.proof.mutants import Judge, all_mutants, stale_equivalents
from tests.proof.mutation import Mutant, mutants_of

SAMPLE = 8


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    """Tries mutants on one server."""
    judge = Judge(str(tmp_path_factory.mktemp("judge")))
    yield judge
    judge.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(SAMPLE))
def test_a_sample_of_the_mutants_is_caught(judge: Judge, number: int, tell: Callable[[str], None]) -> None:
    mutant = random.Random(2026).sample(all_mutants(), SAMPLE)[number]
    verdict = judge.judge(mutant, store_tests=True)
    tell(f"mutant {verdict.fate} ({verdict.detail}): {mutant.name}")
    assert verdict.fate != "survived", f"{mutant.name}: catch it, or list it in equivalent.py with the reason"


def test_there_are_enough_mutants_of_every_script() -> None:
    mutants = all_mutants()
    assert len(mutants) >= 50
    assert len({mutant.name for mutant in mutants}) == len(mutants)
    for name in ("prelude", "lease", "finish", "heartbeat", "submit"):
        assert sum(mutant.script == name for mutant in mutants) >= 30, name


def test_what_is_listed_as_equivalent_is_a_mutant() -> None:
    assert stale_equivalents() == []


def test_a_mutant_differs_in_one_line() -> None:
    source = read_lua("finish")
    for mutant in mutants_of("finish", source):
        before, after = source.split("\n"), mutant.text(source).split("\n")
        assert [n for n, pair in enumerate(zip(before, after, strict=True), 1) if pair[0] != pair[1]] == [
            mutant.line
        ]


def test_a_change_that_nobody_could_notice_survives_and_one_that_loops_for_ever_is_caught(
    tmp_path: Path,
) -> None:
    source = read_lua("reap").split("\n")
    line = next(number for number, text in enumerate(source, 1) if text.startswith("local limit"))
    judge = Judge(str(tmp_path), walks=3)
    try:
        harmless = Mutant("reap", line, source[line - 1], source[line - 1] + " -- as before")
        assert judge.judge(harmless, store_tests=False).fate == "survived"
        endless = Mutant("reap", line, source[line - 1], "while true do end")
        assert judge.judge(endless, store_tests=False).fate == "walk"
        broken = Mutant("reap", line, source[line - 1], "local limit = = 1")
        assert judge.judge(broken, store_tests=False).fate == "invalid"
        assert judge.judge(harmless, store_tests=False).fate == "survived"
    finally:
        judge.close()
