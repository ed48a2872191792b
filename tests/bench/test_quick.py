"""Benchmarks run, with small sizes. Their figures are not looked at: they are the machine's business."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.bench.crew import ROOT


@pytest.mark.parametrize(
    ("benchmark", "says"),
    [
        ("http_api", "leases/s with 16 clients"),
        ("scale", "a lease takes"),
        ("worker_cost", "lines/s:"),
    ],
)
def test_a_quick_benchmark_runs_to_its_end(benchmark: str, says: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", f"tests.bench.{benchmark}", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    assert says in run.stdout
    assert "load afterwards" in run.stdout
