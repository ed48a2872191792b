"""Nothing leaves the tree: orphans and daemons are found, killed and reaped."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import psutil

from tests.waiting import wait_until


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python script to its end."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


def test_daemons_and_their_children_are_killed_and_reaped(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    daemon = f"(setsid sh -c 'echo $$ >> {pids}; sleep 1000 & echo $! >> {pids}; wait' &)"
    run(
        """
        import subprocess, sys
        from pathlib import Path
        from kelpie.embedded.process_tree import adopt_orphans, descendants, kill_descendants
        from tests.waiting import wait_until
        import os
        adopt_orphans()
        pids = Path(sys.argv[2])
        subprocess.run(["sh", "-c", sys.argv[1]], check=True)
        wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2, "the daemon runs")
        assert len(descendants(os.getpid())) >= 2
        kill_descendants()
        assert not descendants(os.getpid())
        """,
        daemon,
        str(pids),
    )
    assert not [pid for pid in map(int, pids.read_text().split()) if psutil.pid_exists(pid)]


def test_only_orphans_with_the_marker_are_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    daemon = f"(setsid sh -c 'echo $$ >> {pids}; exec sleep 1000' &)"
    run(
        """
        import os, subprocess, sys
        from pathlib import Path
        from kelpie.embedded.process_tree import adopt_orphans, children, kill_descendants, kill_orphans
        from tests.waiting import wait_until
        adopt_orphans()
        pids = Path(sys.argv[2])
        for number, node in enumerate(("node-1", "node-2"), 1):
            subprocess.run(["sh", "-c", sys.argv[1]], check=True, env=os.environ | {"NODE": node})
            wait_until(lambda: pids.exists() and len(pids.read_text().split()) == number, "the daemon runs")
        first, second = map(int, pids.read_text().split())
        known = subprocess.Popen(["sleep", "1000"], env=os.environ | {"NODE": "node-1"})
        kill_orphans("NODE=node-1", {known.pid})
        left = children(os.getpid())
        assert first not in left and second in left and known.pid in left, left
        kill_descendants()
        """,
        daemon,
        str(pids),
    )
    wait_until(lambda: not any(map(psutil.pid_exists, map(int, pids.read_text().split()))), "all are gone")
