"""How long a job is without a node: from its node's SIGKILL, its release or its failure to its next command.

    python -m tests.bench.recovery [--quick] [--rounds N] [--interval S] [--fsync always|everysec|no]

Goals: a killed node's job runs elsewhere within 2 heartbeat intervals and 1 s, a released or failed one
within 1 s. The job has a checkpoint in S3, so that the next command starts with its data. In each round a
node runs a job and another one waits for any; the first is killed, or stopped in good order, or the command
fails. Times of ends are the servers' (the attempt's in the history), times of starts the commands' own.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import redis

from kelpie.embedded.s3 import S3Server
from kelpie.embedded.valkey import ValkeyServer
from kelpie.job import from_iso
from tests.api import ApiServer
from tests.bench.figures import announce, load, percentile
from tests.system.fleet import Fleet, Node, down, outcomes, up
from tests.waiting import wait_until

GOAL_S = 1.0
BUCKET = "recovery"
_CHECKPOINT_BYTES = 1 << 20

_SCRIPT = """
date +%s.%N > .started && mv .started started-{round}-$KELPIE_ATTEMPT
[ $KELPIE_ATTEMPT = 1 ] || [ $(wc -c < ck/state) = {size} ] || exit 9
[ $KELPIE_ATTEMPT = 2 ] && exit 0
head -c {size} /dev/zero > ck/.new && mv ck/.new ck/state
while [ ! -e fail-{round} ]; do sleep 0.02; done
exit 1
"""


class Bench:
    """A fleet of two nodes: one has the job, the other one waits for any."""

    def __init__(self, fleet: Fleet, s3: S3Server, interval_s: int) -> None:
        self._fleet = fleet
        self._client = s3.client()
        self._interval_s = interval_s
        self._round = 0
        self._names = 0
        self._nodes: list[Node] = []

    def round(self, end: str) -> float:
        """Seconds from the end of the first attempt to the start of the second command."""
        self._round += 1
        while len(self._nodes) < 2:
            self._nodes.append(self._new_node())
        entry = (BUCKET, f"{self._round}/", "ck")
        job = self._fleet.submit(
            _SCRIPT.format(round=self._round, size=_CHECKPOINT_BYTES),
            sync={"before": [down(*entry)], "during": [up(*entry)]},
            heartbeat_interval=self._interval_s,
        )
        self._fleet.wait_for(job, attempt=1)
        first = self._fleet.holder(job)
        second = next(node for node in self._nodes if node is not first)
        started(first, f"started-{self._round}-1")
        wait_until(self._is_stored, "its checkpoint is stored")
        ended = time.time()
        if end == "killed":
            first.kill()
        elif end == "released":
            first.process.terminate()
        else:
            (first.folder / f"fail-{self._round}").touch()
        resumed = started(second, f"started-{self._round}-2")
        done = self._fleet.wait(job, "completed")
        wanted = {"killed": "interrupted", "released": "released", "failed": "app_failed"}[end]
        if outcomes(done) != [wanted, "completed"]:
            raise RuntimeError(f"a job whose node was {end} has ended as {outcomes(done)}")
        if end != "killed":
            ended = (from_iso(done["attempts"][0]["end"]) or 0) / 1000
        if end != "failed":
            first.end()
            self._nodes.remove(first)
        return resumed - ended

    def _new_node(self) -> Node:
        self._names += 1
        node = self._fleet.node(f"node-{self._names}")
        wait_until(lambda: node.says("worker started"), f"{node.name} starts")
        return node

    def _is_stored(self) -> bool:
        found = self._client.list_objects_v2(Bucket=BUCKET, Prefix=f"{self._round}/state")
        return any(each["Size"] == _CHECKPOINT_BYTES for each in found.get("Contents", ()))


def started(node: Node, name: str) -> float:
    """When the command wrote its start time, in seconds since 1970."""
    path = node.folder / name
    return float(wait_until(lambda: path.exists() and path.read_text().strip(), f"{path} is written"))


def show(what: str, seconds: list[float], goal_s: float) -> None:
    """One line: median, 99th percentile and worst beside the goal."""
    print(
        f"{what:44} median {statistics.median(seconds):6.3f} s   p99 {percentile(seconds, 0.99):6.3f} s   "
        f"max {max(seconds):6.3f} s   goal {goal_s:g} s   ({len(seconds)} times)",
        flush=True,
    )


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.recovery",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one round of each: does it run?")
    parser.add_argument("--rounds", type=int, default=30, help="of each kind (default: 30)")
    parser.add_argument("--interval", type=int, default=1, help="heartbeat interval in seconds (default: 1)")
    parser.add_argument("--fsync", choices=("always", "everysec", "no"), default="always")
    chosen = parser.parse_args(arguments)
    rounds = 1 if chosen.quick else chosen.rounds
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(ValkeyServer(root / "valkey", appendfsync=chosen.fsync))
        client = stack.enter_context(contextlib.closing(redis.Redis.from_url(broker.url)))
        server = stack.enter_context(ApiServer(broker.url, root / "api"))
        s3 = stack.enter_context(S3Server(root / "s3"))
        s3.ensure_bucket(BUCKET)
        announce("a job that loses its node", client)
        fleet = Fleet(server.new_user(), root / "nodes", "bench", storage=s3.environment)
        stack.callback(fleet.close)
        bench = Bench(fleet, s3, chosen.interval)
        for end, what, goal_s in (
            ("killed", f"SIGKILL to resume, interval {chosen.interval} s", 2 * chosen.interval + GOAL_S),
            ("released", "released to resume", GOAL_S),
            ("failed", "failed to resume", GOAL_S),
        ):
            show(what, [bench.round(end) for _ in range(rounds)], goal_s)
    print(f"   load afterwards {load()}")


if __name__ == "__main__":
    main(sys.argv[1:])
