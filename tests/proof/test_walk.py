"""A hundred thousand random steps on the real server agree with the model, and the walk itself can fail."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kelpie.store.scripts import read_lua
from tests.proof.comparison import Disagreement
from tests.proof.virtual import Client
from tests.proof.walk import COMMANDS, STEPS, explain, plan_of, run_plan, run_seed, shrink

pytestmark = pytest.mark.timeout(600)  # many seeds on a machine that may be busy

SEEDS = 400
PARTS = 4


@pytest.mark.parametrize("part", range(PARTS))
def test_a_hundred_thousand_random_steps_agree_with_the_model(
    client: Client, part: int, tell: Callable[[str], None]
) -> None:
    seeds = range(part * SEEDS // PARTS, (part + 1) * SEEDS // PARTS)
    steps = 0
    for seed in seeds:
        try:
            steps += run_seed(client, seed)
        except Exception:  # noqa: BLE001 - it is told
            pytest.fail(f"{explain(client, seed)}\nReplay it: python -m tests.proof.walk --seed {seed}")
    tell(f"walk: seeds {seeds[0]}…{seeds[-1]}, {steps} steps agree with the model")
    assert steps * PARTS >= 100_000


def test_every_command_is_drawn_and_every_seed_draws_its_own_mix() -> None:
    plans = [plan_of(seed) for seed in range(40)]
    assert {name for plan in plans for name, _ in plan.steps} == set(COMMANDS)
    assert len({frozenset(name for name, _ in plan.steps) for plan in plans}) > 20
    assert plan_of(7) == plan_of(7)
    assert len(plan_of(7).steps) == STEPS


def test_a_failing_seed_is_told_with_the_fewest_steps(client: Client) -> None:
    source = read_lua("finish")
    assert "job.f.outcome == outcome" in source or "job.outcome == outcome" in source
    wrong = {"finish": source.replace("outcome == outcome", "outcome ~= outcome")}
    failing = None
    for seed in range(20):
        try:
            run_plan(client, plan_of(seed), wrong)
        except Disagreement:
            failing = plan_of(seed)
            break
    assert failing is not None, "the walk does not notice that a repeated report is refused"
    fewest = shrink(client, failing, wrong)
    assert 4 <= len(fewest.steps) <= 8  # submit, lease, and two reports at least
    with pytest.raises(Disagreement):
        run_plan(client, fewest, wrong)
