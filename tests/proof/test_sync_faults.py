"""A few seeds of random files and faults leave every object as its source, and the auditor can fail."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from kelpie.embedded.s3 import S3Server
from kelpie_worker.sync import retry
from kelpie_worker.sync.fencing import Fence
from tests.fault_proxy import FaultProxy
from tests.proof.sync_faults import BUCKET, ENDINGS, AuditError, Plan, run_seed

SEEDS = range(100, 106)


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(retry, "LONGEST_PAUSE_S", 0.1)
    s3.ensure_bucket(BUCKET)
    with FaultProxy(s3.endpoint) as proxy, patch.dict(os.environ, s3.environment):
        os.environ["AWS_ENDPOINT_URL_S3"] = proxy.endpoint
        yield proxy


def test_random_faults_leave_every_object_as_its_source(
    s3: S3Server, proxy: FaultProxy, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    for seed in SEEDS:
        try:
            run_seed(seed, s3, proxy, tmp_path)
        except AuditError as error:
            pytest.fail(f"{error}\nReplay it: python -m tests.proof.sync_faults --seed {seed}")
    tell(f"sync faults: seeds {SEEDS[0]}…{SEEDS[-1]}, every object is as its source")


def test_without_conditional_writes_the_auditor_sees_the_zombie(
    s3: S3Server, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fence, "_condition", lambda *args: None)
    monkeypatch.setattr(Fence, "_refuse_later", lambda *args: None)

    def seen(seed: int) -> bool:
        try:
            run_seed(seed, s3, proxy, tmp_path)
        except AuditError:
            return True
        return False

    zombies = [seed for seed in range(80) if Plan.of(seed).ending == "zombie"]
    assert any(map(seen, zombies))


def test_every_ending_is_drawn() -> None:
    assert {Plan.of(seed).ending for seed in SEEDS} == set(ENDINGS)
