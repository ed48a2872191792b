"""Changes the scripts, one line at a time, and sees that each change is noticed.

    python -m tests.proof.mutants [--sample N] [--seed N] [--only TEXT] [--processes N] [--all]

A mutant is caught when the walk disagrees with the model, or else when a test of the store fails. One that is
not caught must be listed in EQUIVALENT with the reason why it changes nothing that anybody could notice;
anything else is a hole in the tests, and the exit code is 1. ``--sample`` takes so many at random; ``--all``
prints the caught ones too.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from kelpie.embedded.valkey import ValkeyServer
from kelpie.errors import UnavailableError
from kelpie.store.scripts import PRELUDE, QUEUE_SCRIPTS, read_lua
from tests.proof.comparison import Disagreement
from tests.proof.equivalent import EQUIVALENT
from tests.proof.mutation import Mutant, mutants_of
from tests.proof.virtual import make_client
from tests.proof.walk import plan_of, run_plan

WALKS = 30
STEPS = 200
ANSWER_TIMEOUT_S = 3.0  # far longer than any script; a mutant may loop for ever
WALK_TIMEOUT_S = (
    20  # of one seed, which takes a quarter of a second; a mutant may make the store repeat for ever
)
STORE_TESTS_TIMEOUT_S = 500
PROGRESS_EVERY = 100
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant."""

    mutant: Mutant
    fate: str  # walk, tests, equivalent, survived, or invalid (it does not compile)
    detail: str
    took_s: float


class Judge:
    """Tries mutants on a Valkey of its own."""

    def __init__(self, directory: str, *, walks: int = WALKS) -> None:
        self._directory = Path(directory)
        self._walks = walks
        self._started = 0
        self._server: ValkeyServer | None = None

    def _url(self) -> str:
        if self._server is None:
            self._started += 1
            folder = self._directory / f"valkey-{self._started}"
            self._server = ValkeyServer(folder, appendfsync="no").start()
        return self._server.url

    def close(self) -> None:
        """Ends the server, also one that a mutant keeps busy."""
        if self._server is not None:
            self._server.kill()
            self._server = None

    def judge(self, mutant: Mutant, *, store_tests: bool) -> Verdict:
        """What notices this mutant."""
        started = time.monotonic()
        reason = EQUIVALENT.get((mutant.script, mutant.before, mutant.after))
        if reason is not None:
            return Verdict(mutant, "equivalent", reason, 0.0)
        text = mutant.text(read_lua(mutant.script))
        fate, detail = self.walk(mutant.script, text)
        if fate == "survived" and store_tests:
            fate, detail = self._store_tests(mutant.script, text)
        return Verdict(mutant, fate, detail, time.monotonic() - started)

    def walk(self, script: str, text: str) -> tuple[str, str]:
        """What the walk makes of the text in the script's place: survived, or why not."""
        client = make_client(self._url(), answer_timeout_s=ANSWER_TIMEOUT_S)
        try:
            for seed in range(self._walks):
                plan = plan_of(seed, STEPS)
                plan.checked_every = 1
                with at_most(WALK_TIMEOUT_S):
                    run_plan(client, plan, {script: text})
        except Disagreement as error:
            return "walk", str(error).partition(":")[0]
        except UnavailableError as error:
            self.close()  # the script may still be running
            return "walk", str(error)
        except RedisError as error:
            return ("invalid" if "compiling" in str(error) else "walk"), str(error)[:60]
        except Exception as error:  # noqa: BLE001 - whatever a mutant makes the store do
            return "walk", f"{type(error).__name__}: {error}"[:60]
        finally:
            client.close()
        return "survived", ""

    def _store_tests(self, script: str, text: str) -> tuple[str, str]:
        with tempfile.NamedTemporaryFile("w", suffix=".json", dir=self._directory) as file:
            json.dump({script: text}, file)
            file.flush()
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "tests.proof.mutated"),
                    *("-p", "no:cacheprovider", "-k", "not fakeredis", *_tests_for(script)),
                ],
                cwd=ROOT,
                env=os.environ | {"KELPIE_MUTANT": file.name},
                capture_output=True,
                text=True,
                timeout=STORE_TESTS_TIMEOUT_S,
                check=False,
            )
        failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return ("tests", failed[0].split(" - ")[0]) if done.returncode == 1 else ("survived", "")


def _tests_for(script: str) -> list[str]:
    """The files of the store's tests, those first that speak of the script: one failure is enough."""
    files = sorted((ROOT / "tests" / "unit" / "store").glob("test_*.py"))
    return [str(file) for file in sorted(files, key=lambda file: script not in file.read_text())]


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raises TimeoutError when the block takes longer."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def all_mutants() -> list[Mutant]:
    """Every mutant of every script of a queue."""
    return [mutant for name in (PRELUDE, *QUEUE_SCRIPTS) for mutant in mutants_of(name, read_lua(name))]


def verdicts(
    mutants: Sequence[Mutant], *, processes: int = 1, store_tests: bool = True, walks: int = WALKS
) -> Iterator[Verdict]:
    """Of each mutant, as they come."""
    if processes == 1:
        yield from _judge_all((mutants, store_tests, walks))
        return
    pieces = [(mutants[start : start + 8], store_tests, walks) for start in range(0, len(mutants), 8)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        for found in pool.imap_unordered(_judge_all, pieces):
            yield from found


def _judge_all(share: tuple[Sequence[Mutant], bool, int]) -> list[Verdict]:
    mutants, store_tests, walks = share
    with tempfile.TemporaryDirectory() as directory:
        judge = Judge(directory, walks=walks)
        try:
            return [judge.judge(mutant, store_tests=store_tests) for mutant in mutants]
        finally:
            judge.close()


def unchanged_fails(walks: int = WALKS) -> str:
    """What the walk notices of the scripts as they are, and would of every mutant; empty: nothing."""
    with tempfile.TemporaryDirectory() as directory:
        judge = Judge(directory, walks=walks)
        try:
            fate, detail = judge.walk(PRELUDE, read_lua(PRELUDE))
        finally:
            judge.close()
    return "" if fate == "survived" else detail


def stale_equivalents() -> list[tuple[str, str, str]]:
    """Entries of EQUIVALENT that are no mutants any more."""
    known = {(mutant.script, mutant.before, mutant.after) for mutant in all_mutants()}
    return sorted(set(EQUIVALENT) - known)


def main(arguments: Sequence[str]) -> int:
    """Prints what became of the mutants; 1 when one survived."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.proof.mutants", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--sample", type=int, help="so many of them, at random")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--only", default="", help="those whose name contains this")
    parser.add_argument("--processes", type=int, default=min(os.cpu_count() or 1, 4))
    parser.add_argument("--all", action="store_true", help="print the caught ones too")
    parser.add_argument(
        "--walks", type=int, default=WALKS, help="seeds of the walk that a mutant must survive"
    )
    parser.add_argument("--walk-only", action="store_true", help="do not run the store's tests")
    options = parser.parse_args(arguments)
    mutants = [mutant for mutant in all_mutants() if options.only in mutant.name]
    if options.sample is not None and options.sample < len(mutants):
        mutants = random.Random(options.seed).sample(mutants, options.sample)
    if wrong := unchanged_fails(options.walks):
        print(f"the scripts as they are do not agree with the model: {wrong}")
        return 1
    started = time.monotonic()
    fates: Counter[str] = Counter()
    for verdict in verdicts(
        mutants, processes=options.processes, store_tests=not options.walk_only, walks=options.walks
    ):
        fates[verdict.fate] += 1
        if fates.total() % PROGRESS_EVERY == 0:
            took_s = time.monotonic() - started
            print(f"… {fates.total()} of {len(mutants)} in {took_s:.0f} s: {_summary(fates)}", flush=True)
        if options.all or verdict.fate == "survived":
            print(
                f"{verdict.fate:10} {verdict.took_s:6.1f} s  {verdict.mutant.name}  {verdict.detail}",
                flush=True,
            )
    print(f"{len(mutants)} mutants in {time.monotonic() - started:.0f} s: {_summary(fates)}")
    stale: list[Any] = stale_equivalents()
    for entry in stale:
        print("EQUIVALENT lists what is no mutant:", *entry, sep="\n  ")
    return 1 if fates["survived"] or stale else 0


def _summary(fates: Counter[str]) -> str:
    return (
        f"{fates['walk']} caught by the walk, {fates['tests']} by tests of the store, "
        f"{fates['equivalent']} equivalent, {fates['invalid']} do not compile, {fates['survived']} survived"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
