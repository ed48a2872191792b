"""A thousand simulated fleets keep every promise; the same seed tells the same story."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kelpie.embedded.valkey import ValkeyServer
from tests.proof.simulation import Totals, restarting, run_seed
from tests.proof.virtual import Client, make_client

SEEDS = 1000
PARTS = 4
RESTARTS = 12


@pytest.mark.parametrize("part", range(PARTS))
def test_a_thousand_fleets_lose_no_job_and_never_have_two_holders(
    client: Client, part: int, tell: Callable[[str], None]
) -> None:
    seeds = range(part * SEEDS // PARTS, (part + 1) * SEEDS // PARTS)
    totals = Totals()
    for seed in seeds:
        totals.add(_hold(client, seed))
    tell(f"simulation: seeds {seeds[0]}…{seeds[-1]} hold. {totals}")
    assert totals.seeds * PARTS >= SEEDS
    for what in ("completed", "app_failed", "interrupted", "released", "canceled", "stale messages refused"):
        assert totals.story[what] > 0, f"it never came to {what}: the simulation is too tame"


def test_fleets_survive_the_death_of_their_server(tmp_path: Path, tell: Callable[[str], None]) -> None:
    totals = Totals()
    with ValkeyServer(tmp_path) as server:
        client = make_client(server.url)
        for seed in range(SEEDS, SEEDS + RESTARTS):
            world, _ = run_seed(client, seed, restart=restarting(server, client))
            totals.add(world)
        client.close()
    tell(f"simulation: seeds {SEEDS}…{SEEDS + RESTARTS - 1} hold over restarts. {totals}")
    assert totals.story["restarts"] >= RESTARTS // 2


def test_a_seed_tells_the_same_story_to_the_bit(client: Client) -> None:
    stories: list[list[str]] = [[], []]
    digests = {run_seed(client, 3, trace=story)[1] for story in stories}
    assert len(digests) == 1
    assert stories[0] == stories[1]
    assert len(stories[0]) > 20
    assert run_seed(client, 4)[1] not in digests


def _hold(client: Client, seed: int):  # type: ignore[no-untyped-def]
    try:
        return run_seed(client, seed)[0]
    except Exception as error:
        raise AssertionError(
            f"seed {seed} fails; replay it: python -m tests.proof.simulation --seed {seed} --trace"
        ) from error
