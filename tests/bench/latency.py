"""Prints how long a job waits from its submit to its command, with an idle node.

Run from the repository: python -m tests.bench.latency [ROUNDS]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from kelpie.embedded.s3 import S3Server
from kelpie.embedded.valkey import ValkeyServer
from tests.api import ApiServer
from tests.system.fleet import Fleet
from tests.waiting import wait_until


def started(folder: Path, name: str) -> float:
    """When the command wrote its start time, in seconds since 1970."""
    path = folder / name
    return float(
        wait_until(lambda: path.exists() and path.read_text().strip(), f"{path} is written", timeout_s=30)
    )


def show(what: str, seconds: list[float]) -> None:
    """One line: median and worst."""
    print(f"{what:46} median {statistics.median(seconds) * 1e3:7.0f} ms   max {max(seconds) * 1e3:7.0f} ms")


def main(rounds: int) -> None:
    """Measure on an own Valkey, API and nodes."""
    with tempfile.TemporaryDirectory() as text, ValkeyServer(Path(text) / "valkey") as broker:
        root = Path(text)
        with ApiServer(broker.url, root / "api") as server, S3Server(root / "s3") as s3:
            fleet = Fleet(server.new_user(), root / "nodes", "bench", storage=s3.environment)
            try:
                node = fleet.node()
                fleet.wait(fleet.submit("true"), "completed")
                idle = []
                for n in range(rounds):
                    sent = time.time()
                    job = fleet.submit(f"date +%s.%N > .at-{n} && mv .at-{n} at-{n}")
                    idle.append(started(node.folder, f"at-{n}") - sent)
                    fleet.wait(job, "completed")
            finally:
                fleet.close()
    show("submit to command, idle node", idle)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
