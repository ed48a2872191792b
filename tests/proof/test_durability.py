"""What Valkey has acknowledged survives its death, and a power cut; and the test notices when it does not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.proof.durability import run

pytestmark = pytest.mark.timeout(600)  # many seeds on a machine that may be busy

ROUNDS = 50
POWER_CUTS = 20  # `make durability` has hundreds


@pytest.fixture(autouse=True)
def compiler(request: pytest.FixtureRequest) -> None:
    """A C compiler for the shim; only outside CI may the test do without."""
    if "power" in request.node.name and not (shutil.which("cc") or shutil.which("gcc")):
        if os.environ.get("CI") == "true":
            pytest.fail("there is no C compiler: apt-get install gcc libc6-dev")
        pytest.skip("there is no C compiler: apt-get install gcc libc6-dev")


def test_fifty_kills_lose_nothing_that_was_acknowledged(tmp_path: Path, tell: Callable[[str], None]) -> None:
    losses = run(tmp_path, ROUNDS, power_cut=False)
    tell(f"SIGKILL: {losses}")
    assert (losses.rounds, losses.lost_jobs, losses.lost_completions) == (ROUNDS, 0, 0)
    assert losses.submitted >= ROUNDS
    assert losses.completed >= ROUNDS


def test_power_cuts_lose_nothing_that_was_acknowledged(tmp_path: Path, tell: Callable[[str], None]) -> None:
    losses = run(tmp_path, POWER_CUTS, power_cut=True)
    tell(f"power cut: {losses}")
    assert (losses.rounds, losses.lost_jobs, losses.lost_completions) == (POWER_CUTS, 0, 0)
    assert losses.submitted >= POWER_CUTS
    assert losses.completed >= POWER_CUTS


def test_a_server_that_keeps_no_file_is_found_out(tmp_path: Path) -> None:
    assert run(tmp_path, 2, power_cut=False, volatile=True).lost_completions > 0


def test_a_power_cut_of_a_server_that_syncs_once_a_second_is_found_out(tmp_path: Path) -> None:
    losses = run(tmp_path, 10, power_cut=True, appendfsync="everysec")
    assert losses.any
    assert losses.unsynced_bytes > 0


def test_a_disk_that_lies_about_syncing_is_found_out_by_a_power_cut(tmp_path: Path) -> None:
    assert run(tmp_path, 2, power_cut=True, lie=True).lost_jobs > 0
