"""`kelpie demo`: the README's first command, for real."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.system.test_up import assert_nothing_is_left


def test_the_demo_ends_with_a_verified_result_and_leaves_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    said = subprocess.run(
        [sys.executable, "-m", "kelpie.cli", "demo", "--data", str(data)],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    lines = said.stdout.strip().splitlines()
    assert lines[-1].startswith("demo: verified")
    assert "SIGKILL" in said.stdout
    outcomes = [word for line in lines for word in line.split() if word in {"interrupted", "completed"}]
    assert outcomes[-2:] == ["interrupted", "completed"]
    assert "\x1b" not in said.stdout  # plain lines when nobody watches
    assert_nothing_is_left(data)
