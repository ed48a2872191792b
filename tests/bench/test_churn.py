"""The benchmarks whose nodes are killed run, with small sizes; their figures are the machine's business."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kelpie.embedded.s3 import S3Server
from tests.api import ApiUser
from tests.bench import goodput, recovery
from tests.bench.goodput_ledger import USEFUL
from tests.system.conftest import make_fleet
from tests.system.fleet import Fleet


@pytest.fixture
def fleet(api: ApiUser, node_dir: Path, s3: S3Server) -> Iterator[Fleet]:
    s3.ensure_bucket(recovery.BUCKET)
    s3.ensure_bucket(goodput.BUCKET)
    fleet = make_fleet(api, node_dir, s3)
    yield fleet
    fleet.close()


def test_a_job_is_measured_from_its_end_on_one_node_to_its_start_on_another(
    fleet: Fleet, s3: S3Server
) -> None:
    bench = recovery.Bench(fleet, s3, interval_s=1)
    assert all(bench.round(end) > 0 for end in ("failed", "killed"))


def test_what_a_killed_fleet_spends_its_time_on_is_accounted_for(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    spent, *counts = goodput.measure(fleet, goodput.options(["--quick"]))
    goodput.show(spent, *counts)
    assert 1.0 <= spent[USEFUL] <= sum(spent.values())  # ten steps of a tenth of a second
    assert "useful ÷ total compute" in capsys.readouterr().out
