"""A round of the benchmark of recovery runs to its end; its figure is the machine's business."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kelpie.embedded.s3 import S3Server
from tests.api import ApiUser
from tests.bench.recovery import BUCKET, Bench
from tests.system.conftest import make_fleet
from tests.system.fleet import Fleet


@pytest.fixture
def fleet(api: ApiUser, node_dir: Path, s3: S3Server) -> Iterator[Fleet]:
    s3.ensure_bucket(BUCKET)
    fleet = make_fleet(api, node_dir, s3)
    yield fleet
    fleet.close()


def test_a_job_is_measured_from_its_end_on_one_node_to_its_start_on_another(
    fleet: Fleet, s3: S3Server
) -> None:
    bench = Bench(fleet, s3, interval_s=1)
    assert all(bench.round(end) > 0 for end in ("failed", "released", "killed"))
