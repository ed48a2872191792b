"""How much of what a fleet computes is of use while its nodes are killed, and where the rest goes.

    python -m tests.bench.goodput [--quick] [--seed N] [--nodes N] [--jobs N] [--steps N] [--checkpoint STEPS]
        [--mtbf S] [--down S] [--interval S]

Jobs compute steps and write a checkpoint every few of them. Each node is killed with SIGKILL at times drawn
from the seed, a mean time (--mtbf) apart, and another one takes its place after --down seconds. The commands
note in a file, with the time, when they begin, end a step, and end; the rest is in the attempts' history and
the workers' logs (goodput_ledger.py). A step is a pause of a tenth of a second: the processors of the machine
that runs the benchmark are not what is measured. The ideal loses what was in no checkpoint at each kill, and
no more.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis

from kelpie.embedded.s3 import S3Server
from kelpie.embedded.valkey import ValkeyServer
from kelpie.job import from_iso
from tests.api import ApiServer
from tests.bench.figures import announce, load
from tests.bench.goodput_ledger import (
    DETECTION,
    LOSSES,
    USEFUL,
    WAITING,
    Run,
    Spent,
    account,
    goodput,
    ideal,
    nothing,
)
from tests.system.fleet import Fleet, Node, down, up

BUCKET = "goodput"
_CHECKPOINT_BYTES = 256 * 1024
_TIMEOUT_S = 900.0

_SCRIPT = """
note() {{ echo "$KELPIE_JOB_ID $KELPIE_ATTEMPT $1 $2 $(date +%s.%N)" >> {journal}; }}
i=$(head -n 1 ck/state 2>/dev/null || echo 0)
note begin $i
while [ $i -lt {steps} ]; do
  sleep 0.1; i=$((i + 1))
  if [ $((i % {every})) = 0 ]; then
    {{ echo $i; head -c {size} /dev/zero; }} > ck/.new && mv ck/.new ck/state
  fi
  note step $i
done
mkdir -p out; echo $i > out/result
note end $i
"""


class Killer:
    """Kills the nodes of a fleet by a seeded schedule, and replaces each."""

    def __init__(self, fleet: Fleet, seed: int, nodes: int, mtbf_s: float, down_s: float) -> None:
        self.killed: dict[str, float] = {}
        """When each node was killed, by its name."""
        self._fleet = fleet
        self._down_s = down_s
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._started = 0
        self._threads = [
            threading.Thread(target=self._keep, args=(random.Random(f"{seed} {number}"), mtbf_s), daemon=True)
            for number in range(nodes)
        ]
        for thread in self._threads:
            thread.start()

    def _keep(self, rng: random.Random, mtbf_s: float) -> None:
        """One node after the other, in one place."""
        node = self._start()
        while not self._over.wait(rng.expovariate(1 / mtbf_s)):
            self.killed[node.name] = time.time()
            node.kill()
            if self._over.wait(self._down_s):
                return
            node = self._start()

    def _start(self) -> Node:
        with self._lock:
            self._started += 1
            return self._fleet.node(f"node-{self._started}")

    def stop(self) -> None:
        """No node is killed after this."""
        self._over.set()
        for thread in self._threads:
            thread.join()


def runs_of(
    job: dict[str, Any], notes: list[list[str]], killed: dict[str, float], downloads: dict[int, float]
) -> list[Run]:
    """The attempts of a job that completed. ``notes``: the journal's lines about it, without its id."""
    runs = []
    for attempt in job["attempts"]:
        number = attempt["attempt"]
        run = Run(
            start=(from_iso(attempt["start"]) or 0) / 1000,
            end=(from_iso(attempt["end"]) or 0) / 1000,
            killed=killed.get(attempt["machine_id"]) if attempt["outcome"] == "interrupted" else None,
            download_s=downloads.get(number, 0.0),
        )
        for of, what, step, at in notes:
            if int(of) != number:
                continue
            if what == "begin":
                run.begun, run.resumed_at = float(at), int(step)
            elif what == "step":
                run.steps.append((int(step), float(at)))
            else:
                run.finished = float(at)
        runs.append(run)
    return runs


def downloads_of(nodes: Sequence[Node], job_id: str) -> dict[int, float]:
    """Seconds between a lease's arrival and its command's start, by attempt."""
    leased: dict[int, float] = {}
    spent: dict[int, float] = {}
    for node in nodes:
        for line in node.log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if event.get("job_id") != job_id:
                    continue
                at = (from_iso(event["timestamp"]) or 0) / 1000
                if event["event"] == "job leased":
                    leased[event["attempt"]] = at
                elif event["event"] == "command started":
                    spent[event["attempt"]] = at - leased[event["attempt"]]
    return spent


def measure(fleet: Fleet, chosen: argparse.Namespace) -> tuple[Spent, int, int, int]:
    """What the time of the jobs was spent on; how many jobs, attempts and kills there were."""
    journal = fleet.root / "journal"
    script = _SCRIPT.format(
        journal=journal, steps=chosen.steps, every=chosen.checkpoint, size=_CHECKPOINT_BYTES
    )
    jobs = []
    for number in range(chosen.jobs):
        checkpoint = (BUCKET, f"{number}/ck/", "ck")
        sync = {
            "before": [down(*checkpoint)],
            "during": [up(*checkpoint)],
            "after": [up(BUCKET, f"{number}/out/", "out")],
        }
        jobs.append(fleet.submit(script, sync=sync, heartbeat_interval=chosen.interval))
    killer = Killer(fleet, chosen.seed, chosen.nodes, chosen.mtbf, chosen.down)
    try:
        deadline = time.monotonic() + _TIMEOUT_S
        done = [fleet.wait(job, "completed", timeout_s=deadline - time.monotonic()) for job in jobs]
    finally:
        killer.stop()
    notes = [line.split() for line in journal.read_text().splitlines()]
    spent = nothing()
    for job in done:
        own = [line[1:] for line in notes if line[0] == job["id"]]
        runs = runs_of(job, own, killer.killed, downloads_of(fleet.nodes, job["id"]))
        for what, seconds in account(runs, chosen.checkpoint).items():
            spent[what] += seconds
    return spent, len(done), sum(len(job["attempts"]) for job in done), len(killer.killed)


def show(spent: Spent, jobs: int, attempts: int, kills: int) -> None:
    """The shares, beside the ideal."""
    total = sum(spent[each] for each in (USEFUL, *LOSSES))
    print(f"{jobs} jobs completed in {attempts} attempts; {kills} nodes were killed")
    print(
        f"useful ÷ total compute: {goodput(spent):.3f}   the schedule's own bound: {ideal(spent):.3f}   "
        f"reached of it: {goodput(spent) / ideal(spent):.3f}"
    )
    for each in (USEFUL, *LOSSES):
        print(f"  {each:45} {spent[each]:8.1f} s  {spent[each] / total:7.2%}")
    print(f"  {WAITING + ' (nobody computes)':45} {spent[WAITING]:8.1f} s")
    lost = attempts - jobs
    if lost:
        per_kill = (total - spent[USEFUL]) / lost
        print(
            f"a lost attempt costs {per_kill:.2f} s ({spent[DETECTION] / lost:.2f} s of it detection): "
            f"with a kill every hour of compute, {3600 / (3600 + per_kill):.2%} would be useful"
        )


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """The size of it all."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.goodput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="1 node, 1 short job: does it run?")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=6)
    parser.add_argument("--jobs", type=int, default=24)
    parser.add_argument("--steps", type=int, default=100, help="of each job, 0.1 s each (default: 100)")
    parser.add_argument("--checkpoint", type=int, default=5, help="steps between checkpoints (default: 5)")
    parser.add_argument("--mtbf", type=float, default=15.0, help="mean seconds between kills of a node")
    parser.add_argument("--down", type=float, default=1.0, help="seconds until another node takes its place")
    parser.add_argument("--interval", type=int, default=1, help="heartbeat interval in seconds (default: 1)")
    chosen = parser.parse_args(arguments)
    if chosen.quick:
        chosen.nodes, chosen.jobs, chosen.steps, chosen.mtbf, chosen.down = 1, 1, 10, 2.0, 0.0
    return chosen


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    chosen = options(arguments)
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(ValkeyServer(root / "valkey"))
        client = stack.enter_context(contextlib.closing(redis.Redis.from_url(broker.url)))
        server = stack.enter_context(ApiServer(broker.url, root / "api"))
        s3 = stack.enter_context(S3Server(root / "s3"))
        s3.ensure_bucket(BUCKET)
        announce(f"{chosen.nodes} nodes, each killed every {chosen.mtbf:g} s, seed {chosen.seed}", client)
        fleet = Fleet(server.new_user(), root / "nodes", "bench", storage=s3.environment)
        stack.callback(fleet.close)
        show(*measure(fleet, chosen))
    print(f"   load afterwards {load()}")


if __name__ == "__main__":
    main(sys.argv[1:])
