"""2,000 nodes in long polls on `kelpie api --workers 2`: what others feel of them, how soon jobs reach them.

    python -m tests.bench.polls [--quick] [--polls N] [--seconds S] [--fsync always|everysec|no]

The polls are raw sockets in this process; a second process asks for jobs and reports heartbeats meanwhile.
Goal of issue 3: those requests under 50 ms at p99. First all nodes arrive in one moment, as after an outage;
then their polls end and begin again spread over time, as those of a fleet do; then a job per node comes: how
long until every node has one, none twice.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import redis

from kelpie.embedded.valkey import ValkeyServer
from kelpie.job import MAX_BATCH
from tests.api import ApiServer, ApiUser
from tests.bench.crew import crew
from tests.bench.figures import announce, load, percentile
from tests.bench.wire import Connection, Wire
from tests.factories import GROUP, job_body

WAIT_S = 10
PROBE_EVERY_S = 0.02
GOAL_P99_MS = 50
ARRIVAL_S = 6.0
GIVE_UP_S = 60.0


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.polls", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="100 polls, 2 seconds: does it run?")
    parser.add_argument("--polls", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=20.0, help="of waiting before the jobs come")
    parser.add_argument("--fsync", choices=("always", "everysec", "no"), default="always")
    parser.add_argument("--probe", nargs=4, metavar=("PORT", "KEY", "JOB", "SECONDS"), help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.probe:
        port, key, job_id, seconds = chosen.probe
        probe(int(port), key, job_id, float(seconds))
        return
    polls, seconds = (100, 2.0) if chosen.quick else (chosen.polls, chosen.seconds)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(ValkeyServer(folder / "valkey", appendfsync=chosen.fsync))
        client = stack.enter_context(contextlib.closing(redis.Redis.from_url(broker.url)))
        server = stack.enter_context(ApiServer(broker.url, folder / "api"))
        announce(f"{polls} long polls of {WAIT_S} s, 2 API workers", client)
        measure(server.new_user(), polls, seconds)
    print(f"   load afterwards {load()}\n", flush=True)


def measure(user: ApiUser, polls: int, seconds: float) -> None:
    """First nobody gets anything, then everybody one job."""
    other = user.ok("POST", "/jobs", json=job_body(container_group_id="another"))
    held = user.ok("GET", "/work?machine_id=prober&container_group_id=another")[0]
    assert held["id"] == other["id"]

    def probing(lasting_s: float) -> list[list[str]]:
        arguments = [str(user.server.port), user.key, json.dumps(held), str(lasting_s)]
        return [[sys.executable, "-m", "tests.bench.polls", "--probe", *arguments]]

    with crew(probing(seconds)) as alone:
        alone.go()
        show("other requests, nobody polls", alone.answers()[0]["latencies_ms"])
    fleet = Fleet(user, polls)
    with crew(probing(min(ARRIVAL_S, seconds))) as arriving, fleet.polling():
        arriving.go()
        show(f"other requests, {polls} nodes arrive", arriving.answers()[0]["latencies_ms"])
        with crew(probing(seconds)) as waiting:
            waiting.go()
            show(f"other requests, {polls} polls wait", waiting.answers()[0]["latencies_ms"])
        with crew(probing(min(ARRIVAL_S, seconds))) as serving:
            serving.go()
            submitted = fleet.submit()
            fleet.wait_served()
            took = sorted(at - submitted for at in fleet.served.values())
            waited = f"half after {took[len(took) // 2]:.2f} s, all after {took[-1]:.2f} s"
            print(f"{f'{polls} jobs to {polls} nodes':38} {waited}, no job twice", flush=True)
            show("other requests, from then on", serving.answers()[0]["latencies_ms"])
    print(f"   goal: p99 below {GOAL_P99_MS} ms while all wait")


class Fleet:
    """Nodes that poll until each has a job. ``served``: when each job was handed out."""

    def __init__(self, user: ApiUser, count: int) -> None:
        self._user = user
        self._count = count
        self._wire = Wire(user.server.port, user.key, count)
        self._over = threading.Event()
        self._error: Exception | None = None
        self.served: dict[str, float] = {}
        self._done: set[int] = set()
        self._arrived: set[int] = set()

    @contextlib.contextmanager
    def polling(self) -> Iterator[None]:
        """In a thread, which mostly waits."""
        thread = threading.Thread(target=self._run, name="fleet", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join(GIVE_UP_S)
            self._wire.close()
        if self._error is not None:
            raise self._error

    def submit(self) -> float:
        """A job per node; returns when the first were sent."""
        start = time.monotonic()
        for sent in range(0, self._count, MAX_BATCH):
            batch = [job_body()] * min(MAX_BATCH, self._count - sent)
            self._user.ok("POST", "/jobs/batch", json=batch)
        return start

    def wait_served(self) -> None:
        """Until every node has its job. RuntimeError after a minute."""
        deadline = time.monotonic() + GIVE_UP_S
        while len(self.served) < self._count:
            if self._error is not None:
                raise self._error
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"after {GIVE_UP_S:g} s {len(self.served)} of {self._count} nodes have a job"
                )
            time.sleep(0.01)

    def _run(self) -> None:
        try:
            self._wire.drive(self._following, self._answered)
        except (RuntimeError, OSError) as error:
            self._error = error

    def _following(self, connection: Connection) -> bytes | None:
        if connection.number in self._done or self._over.is_set():
            return None
        wait_s = float(WAIT_S)
        if connection.number not in self._arrived:  # later polls are then spread over time
            self._arrived.add(connection.number)
            wait_s *= (connection.number + 1) / self._count
        path = f"/work?machine_id=node-{connection.number}&container_group_id={GROUP}&wait={wait_s:.3f}"
        return self._wire.request("GET", path)

    def _answered(self, connection: Connection, status: int, body: bytes) -> None:
        if status != 200:
            raise RuntimeError(f"{status}: {body[:300]!r}")
        for job in json.loads(body):
            if job["id"] in self.served:
                raise RuntimeError(f"job {job['id']} was handed out twice")
            self.served[job["id"]] = time.monotonic()
            self._done.add(connection.number)


def probe(port: int, key: str, held: str, seconds: float) -> None:
    """A member of a crew: what a user and a working node ask meanwhile, one request every 20 ms."""
    job = json.loads(held)
    report = {name: job[name] for name in ("machine_id", "container_group_id", "lease")}
    wire = Wire(port, key, 1)
    asked = [
        wire.request("GET", f"/jobs/{job['id']}"),
        wire.request("POST", f"/jobs/{job['id']}/heartbeat", report),
        wire.request("GET", "/jobs?page_size=10"),
    ]
    latencies: list[float] = []
    wire.drive(lambda connection: asked[0] if not latencies else None, lambda c, s, b: latencies.append(0))
    latencies.clear()  # the connection is warm
    print("ready", flush=True)
    sys.stdin.readline()
    end = time.monotonic() + seconds

    def following(connection: Connection) -> bytes | None:
        if time.monotonic() > end:
            return None
        time.sleep(PROBE_EVERY_S)
        return asked[len(latencies) % len(asked)]

    def answered(connection: Connection, status: int, body: bytes) -> None:
        if status != 200:
            raise RuntimeError(f"{status}: {body[:300]!r}")
        latencies.append(connection.latency_s * 1e3)

    wire.drive(following, answered)
    print(json.dumps({"latencies_ms": latencies}), flush=True)


def show(what: str, latencies_ms: Sequence[float]) -> None:
    """One line: how long requests took."""
    p50, p99 = percentile(latencies_ms, 0.5), percentile(latencies_ms, 0.99)
    print(
        f"{what:38} p50 {p50:7.1f} ms   p99 {p99:7.1f} ms   max {max(latencies_ms):7.1f} ms   "
        f"of {len(latencies_ms)}",
        flush=True,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
