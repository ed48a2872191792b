"""A simulated fleet on a virtual clock against the real scripts. The same seed runs the same, to the bit.

    python -m tests.proof.simulation [--seeds N] [--first-seed N] [--restarts]
    python -m tests.proof.simulation --seed N [--trace]      replay one seed

Nodes lease, beat, work through the units of a job with a checkpoint after each, fail, drain. They crash and
come back without memory, freeze past their lease and wake as zombies, are cut off. The network loses requests
and replies, repeats and reorders them. Some nodes are old: they know no lease and poll without a request id.
Users cancel, purge, and report by hand. The server forgets its scripts; with ``--restarts`` it is killed and
comes back. Then all faults end and the fleet must finish every job.

Two judges watch. The model (through the harness) predicts each answer and everything that is kept. The
:class:`Witness` knows no model: it sees only who was granted and who was believed, in order, and holds what
the protocol promises.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import itertools
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from kelpie.embedded.valkey import ValkeyServer
from kelpie.errors import UnavailableError
from kelpie.job import Holder, JobStatus, Lease, Outcome
from kelpie.platform import relay as relay_module
from kelpie.platform.relay import Relay
from kelpie.store import Store
from tests.proof.comparison import USER
from tests.proof.harness import Harness
from tests.proof.virtual import Client, make_client, seeded
from tests.proof.witness import Witness

GROUP = "fleet"
HOOK = "https://example.org/hook"
INTERVAL_S = 2  # so that a lease lasts four virtual seconds
FAULTY_MS = 40_000  # how long things go wrong
CALM_MS = 1_800_000  # how long the fleet may take to finish afterwards
TIMEOUT_MS = 1500  # after which a node sends a request again
MEDDLING = (
    *("cancel", "cancel", "purge", "complete", "fail", "fail"),
    *("hold", "hold", "resume", "requeue", "requeue", "unban", "prioritize"),
)
CHECKED_EVERY = 8  # messages between two comparisons of everything


@dataclass
class Faults:
    """How bad a seed's world is: chances from 0 to 1, and mean times in ms."""

    lose_request: float
    lose_reply: float
    duplicate: float
    slow: float  # messages that take seconds
    crash_every_ms: int | None
    freeze_every_ms: int | None
    cut_every_ms: int | None
    app_failure: float
    sync_failure: float
    drain: float
    relay_trouble: float


def faults_of(draw: random.Random) -> Faults:
    """The faults of a seed; each kind is absent in some of them."""

    def chance(*values: float) -> float:
        return draw.choice((0.0, *values))

    def every(*values: int) -> int | None:
        return draw.choice((None, *values))

    return Faults(
        lose_request=chance(0.02, 0.1, 0.3),
        lose_reply=chance(0.02, 0.1, 0.3),
        duplicate=chance(0.05, 0.3),
        slow=chance(0.02, 0.2),
        crash_every_ms=every(8000, 30_000),
        freeze_every_ms=every(8000, 30_000),
        cut_every_ms=every(10_000, 40_000),
        app_failure=chance(0.1, 0.5),
        sync_failure=chance(0.1),
        drain=chance(0.1, 0.3),
        relay_trouble=chance(0.1, 0.5),
    )


class ShakyDeliveries:
    """The store's deliveries over a connection that breaks now and then, before or after the fact."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._real = world.store.deliveries

    def put(self, delivery_id: str, **about: str) -> bool:
        """Queues a delivery. Raises UnavailableError now and then, sometimes although it was queued."""
        trouble = self._world.chance(self._world.faults.relay_trouble)
        if trouble and self._world.chance(0.5):
            raise UnavailableError("the connection was lost before the delivery was queued")
        new = self._real.put(delivery_id, **about)
        if trouble:
            raise UnavailableError("the connection was lost after the delivery was queued")
        return new

    def forget(self, job_ids: Sequence[str]) -> None:
        """Deletes what is queued about jobs that are deleted."""
        self._real.forget(job_ids)

    def told(self) -> list[tuple[str, str]]:
        """Job and event of every delivery."""
        found: list[tuple[str, str]] = []
        cursor: str | None = None
        while True:
            page, cursor = self._real.page(user_id=USER, cursor=cursor, page_size=1000)
            found += [(delivery.job_id, delivery.event) for delivery in page]
            if cursor is None:
                return found


@dataclass
class Node:
    """One node: what it believes, which may be out of date."""

    name: str
    old: bool  # knows no lease and no request id
    life: int = 0  # counts its starts: a message for an earlier life is for nobody
    frozen_until: int = 0
    cut_until: int = 0
    lease: Lease | None = None
    done: int = 0  # units of the job that it runs
    asked: int = 0  # counts its polls: only the reply to the last one is waited for

    def holder(self, lease: Lease) -> Holder:
        """How it shows itself."""
        return Holder(self.name, may_report_unheld=True) if self.old else Holder(self.name, lease.secret)


@dataclass(order=True)
class Event:
    """Something that happens at a moment."""

    at: int
    number: int
    act: Callable[[], None] = field(compare=False)


class World:
    """A fleet, its network, its users and its server."""

    def __init__(
        self,
        client: Client,
        seed: int,
        *,
        restart: Callable[[], None] | None = None,
        mutated: Mapping[str, str] | None = None,
        compares: bool = True,
    ) -> None:
        """``compares``: whether the model judges too, beside the witness."""
        self.draw = random.Random(seed)
        self.seed = seed
        self.faults = faults_of(self.draw)
        old = self.draw.choice((0.0, 0.0, 0.3, 1.0))
        self.nodes = [Node(f"node-{n}", old=self.chance(old)) for n in range(self.draw.randint(1, 5))]
        # The last ones are new: whoever the others are banned from still finds a node.
        self.fresh = [Node(f"fresh-{n}", old=False) for n in range(2)]
        names = [node.name for node in (*self.nodes, *self.fresh)]
        self.harness = Harness(client, groups=[GROUP], nodes=names, mutated=mutated, compares=compares)
        self.store: Store = self.harness.store
        self.witness = Witness()
        self.deliveries = ShakyDeliveries(self)
        self.relay = Relay(self.store, self.deliveries)  # type: ignore[arg-type] - it needs no more
        self.units: dict[str, int] = {}  # how much work each job is
        self.bucket: Counter[str] = Counter()  # units that a job's checkpoint holds
        self.now = 0
        self.calm = False
        self.messages = 0
        self.restarts = 0
        self.webhooks = 0
        self._restart = restart
        self._client = client
        self._events: list[Event] = []
        self._numbers = itertools.count()
        self._requests = itertools.count()
        self._server_ms = 0
        self._digest = hashlib.sha256()
        self.trace: list[str] | None = None

    # Time and chance

    def chance(self, probability: float) -> bool:
        return self.draw.random() < probability

    def after(self, ms: int, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, Event(self.now + ms, next(self._numbers), act))

    def around(self, mean_ms: int) -> int:
        return 1 + int(self.draw.expovariate(1 / mean_ms))

    def run(self) -> str:
        """The whole story; a digest of everything that was said. Raises AssertionError."""
        for node in self.nodes:
            self.after(self.draw.randint(0, 1000), lambda node=node: self.start(node))
            self._plan_troubles(node)
        for _ in range(self.draw.randint(1, 3)):
            self.after(self.draw.choice((0, 0, self.draw.randint(0, FAULTY_MS))), self.user_submits)
        for _ in range(self.draw.choice((0, 0, 2, 6))):
            self.after(self.draw.randint(0, FAULTY_MS), self.user_meddles)
        if self.chance(0.3):
            self.after(self.draw.randint(0, FAULTY_MS), self.server_forgets_scripts)
        if self._restart is not None:
            for _ in range(self.draw.randint(1, 2)):
                self.after(self.draw.randint(0, FAULTY_MS), self.server_restarts)
        self.every(self.draw.choice((1000, 3000)), self.reap)
        self.every(self.draw.choice((4000, 15_000)), self.relay_ticks)
        self.after(FAULTY_MS, self.heal)
        while self._events and not (self.calm and self.is_done()):
            event = heapq.heappop(self._events)
            self.now = event.at
            assert self.now <= FAULTY_MS + CALM_MS, f"not finished: {self.unfinished()}"
            event.act()
        self._verify()
        return self._digest.hexdigest()

    def every(self, ms: int, act: Callable[[], None]) -> None:
        def again() -> None:
            act()
            self.after(ms, again)

        self.after(ms, again)

    def say(self, *words: object) -> None:
        """One line of the story."""
        line = f"{self.now:8} {' '.join(map(str, words))}"
        self._digest.update(line.encode())
        if self.trace is not None:
            self.trace.append(line)

    # The network: a request may be lost, come late, come twice; so may its reply

    def send(self, node: Node | None, request: Callable[[], Any], on_reply: Callable[[Any], None]) -> None:
        """Sends a request; the reply goes to the life of the node that asked."""
        life = node.life if node else 0

        def arrive(*, answer: bool) -> None:
            if node and self.now < node.cut_until:
                return
            reply = self.serve(request)
            if answer and not (self.is_faulty and self.chance(self.faults.lose_reply)):
                self.after(self.travel_ms(), lambda: deliver(reply))

        def deliver(reply: Any) -> None:
            if node is None:
                on_reply(reply)
            elif node.life == life and self.now >= node.cut_until:
                self.when_awake(node, life, lambda: on_reply(reply))

        copies = 1 + (self.is_faulty and self.chance(self.faults.duplicate))
        for copy in range(copies):
            if not (self.is_faulty and self.chance(self.faults.lose_request)):
                self.after(self.travel_ms(), lambda copy=copy: arrive(answer=copy == 0))

    @property
    def is_faulty(self) -> bool:
        return not self.calm

    def travel_ms(self) -> int:
        slow = self.is_faulty and self.chance(self.faults.slow)
        return self.draw.randint(1000, 15_000) if slow else self.draw.randint(1, 200)

    def serve(self, request: Callable[[], Any]) -> Any:
        """The server handles a request at this moment."""
        if self.now != self._server_ms:
            self.harness.set_clock(self.now - self._server_ms)
            self._server_ms = self.now
        reply = request()
        self.messages += 1
        if self.messages % CHECKED_EVERY == 0:
            self.harness.check()
        return reply

    # Nodes

    def start(self, node: Node) -> None:
        """A node begins anew, without memory."""
        node.life += 1
        node.lease = None
        self.say(node.name, "starts")
        self.poll(node)

    def crash(self, node: Node) -> None:
        """The node vanishes, and comes back after a while."""
        if self.calm:
            return
        node.life += 1
        node.lease = None
        self.say(node.name, "crashes")
        self.after(self.around(4000), lambda: self.start(node))

    def freeze(self, node: Node) -> None:
        """The node stops for a while and goes on as if nothing had happened."""
        if not self.calm:
            node.frozen_until = self.now + self.around(6000)
            self.say(node.name, "freezes until", node.frozen_until)

    def cut(self, node: Node) -> None:
        """The node cannot reach the server for a while."""
        if not self.calm:
            node.cut_until = self.now + self.around(6000)
            self.say(node.name, "is cut off until", node.cut_until)

    def _plan_troubles(self, node: Node) -> None:
        troubles = (
            (self.faults.crash_every_ms, self.crash),
            (self.faults.freeze_every_ms, self.freeze),
            (self.faults.cut_every_ms, self.cut),
        )
        for mean_ms, trouble in troubles:
            at = 0
            while mean_ms and (at := at + self.around(mean_ms)) < FAULTY_MS:
                self.after(at, lambda trouble=trouble: trouble(node))

    def when_awake(self, node: Node, life: int, act: Callable[[], None]) -> None:
        """Does something now, or when the node thaws, unless it has died."""
        if node.life != life:
            return
        if self.now < node.frozen_until:
            self.after(node.frozen_until - self.now, lambda: self.when_awake(node, life, act))
        else:
            act()

    def later(self, node: Node, ms: int, act: Callable[[], None]) -> None:
        """The node's own timer."""
        life = node.life
        self.after(ms, lambda: self.when_awake(node, life, act))

    def poll(self, node: Node) -> None:
        """Asks for a job until it gets one; asks again under the same name where a reply does not come."""
        self._poll(node, f"request-{next(self._requests)}")

    def _poll(self, node: Node, request_id: str) -> None:
        node.asked += 1
        number = node.asked

        def ask() -> Lease | None:
            name = f"once-{next(self._requests)}" if node.old else request_id
            lease = self.harness.lease(GROUP, node.name, name)
            self.say(node.name, "polls", name, "gets", lease and (lease.job.id, lease.job.attempt))
            if lease is not None:
                self.witness.granted(lease, self.harness.clock.now)
            return lease

        def on_reply(lease: Lease | None) -> None:
            if node.asked != number:
                return  # it has given up waiting for this reply
            node.asked += 1
            if lease is None:
                self.later(node, self.around(3000), lambda: self.poll(node))
            else:
                self.run_job(node, lease)

        def again() -> None:
            if node.asked == number:
                self._poll(node, request_id)

        self.send(node, ask, on_reply)
        self.later(node, TIMEOUT_MS, again)

    def run_job(self, node: Node, lease: Lease) -> None:
        """Downloads the checkpoint and works from there."""
        node.lease, node.done = lease, self.bucket[lease.job.id]
        self.beat(node, lease)
        self.work(node, lease)

    def work(self, node: Node, lease: Lease) -> None:
        """One unit and its checkpoint, again and again; then the report."""
        if node.lease is not lease:
            return
        ended = self._outcome_of(node, lease)
        if ended is not None:
            self.report(node, lease, ended)
            return

        def unit_done() -> None:
            if node.lease is lease:
                node.done += 1
                self.bucket[lease.job.id] = max(self.bucket[lease.job.id], node.done)
                self.work(node, lease)

        self.later(node, self.around(1500), unit_done)

    def _outcome_of(self, node: Node, lease: Lease) -> Outcome | None:
        if node.done >= self.units.get(lease.job.id, 0):
            return Outcome.COMPLETED
        if self.calm:
            return None
        if self.chance(self.faults.app_failure / 4):
            return Outcome.APP_FAILED
        if self.chance(self.faults.sync_failure / 4):
            return Outcome.SYNC_FAILED
        if not node.old and self.chance(self.faults.drain / 4):
            return Outcome.RELEASED
        return None

    def beat(self, node: Node, lease: Lease) -> None:
        """A heartbeat now, and the next one before the interval is over."""
        if node.lease is not lease:
            return

        def ask() -> Any:
            holder = node.holder(lease)
            reply = self.harness.heartbeat(lease.job.id, holder)
            self.say(node.name, "beats for attempt", lease.job.attempt, "of", lease.job.id, "→", reply)
            self.witness.heartbeat(lease, holder, reply)
            return reply

        def on_reply(reply: Any) -> None:
            gone = isinstance(reply, tuple) or reply.status is JobStatus.CANCELED
            if gone and node.lease is lease:
                self.stop(node)

        self.send(node, ask, on_reply)
        self.later(node, INTERVAL_S * 800, lambda: self.beat(node, lease))

    def report(self, node: Node, lease: Lease, outcome: Outcome) -> None:
        """Says how the attempt ended, until it is heard. Heartbeats go on meanwhile."""
        if node.lease is not lease:
            return

        def ask() -> Any:
            holder = node.holder(lease)
            reply = self.harness.finish(lease.job.id, holder, outcome)
            self.say(node.name, "reports", outcome, "of attempt", lease.job.attempt, lease.job.id, "→", reply)
            self.witness.report(lease, holder, outcome, reply)
            return reply

        def on_reply(_: Any) -> None:
            if node.lease is lease:
                self.stop(node)

        self.send(node, ask, on_reply)
        self.later(node, TIMEOUT_MS, lambda: self.report(node, lease, outcome))

    def stop(self, node: Node) -> None:
        """The node drops its job and asks for another."""
        node.lease = None
        self.poll(node)

    # Users and the server

    def user_submits(self) -> None:
        """A batch of jobs."""
        definition: dict[str, Any] = {
            "max_failures": self.draw.choice((1, 2, 3, 10)),
            "heartbeat_interval": INTERVAL_S,
            "priority": self.draw.choice((0, 0, 5)),
            "webhook": self.draw.choice((None, HOOK, HOOK)),
            "webhook_events": self.draw.choice((None, None, ("interrupted", "canceled", "completed"))),
            "retry_backoff_s": self.draw.choice((0, 0, 0, 2)),
            "max_runtime_s": self.draw.choice((None, None, None, 6)),
        }
        if self.chance(0.1):
            definition["not_before"] = self.harness.clock.now + self.draw.randint(-5000, FAULTY_MS)
        count = self.draw.choice((1, 1, 2, 4))
        for job in self.serve(lambda: self.harness.submit(GROUP, count, **definition)):
            self.units[job.id] = self.draw.randint(1, 6)
            self.witness.submitted(job)
            self.say("a user submits", job.id)

    def user_meddles(self) -> None:
        """A user does something to a job of his."""
        if not self.units:
            return
        job_id = self.draw.choice(list(self.units))
        what = self.draw.choice(MEDDLING)
        by_hand = Holder("a-laptop", may_report_unheld=True)

        def act() -> Any:
            if what == "cancel":
                reply: Any = self.harness.cancel(job_id)
                self.witness.canceled(job_id, reply)
            elif what == "purge":
                reply = self.harness.purge(job_id)
                self.witness.purged(job_id)
            elif what in ("hold", "resume"):
                reply = getattr(self.harness, what)(job_id)
                self.witness.held(job_id, reply, on=what == "hold")
            elif what == "requeue":
                reply = self.harness.requeue(job_id)
                self.witness.requeued(job_id, reply)
            elif what == "unban":
                reply = self.harness.unban(job_id, None)
                self.witness.unbanned(job_id, reply)
            elif what == "prioritize":
                reply = self.harness.prioritize(job_id, self.draw.choice((0, 7)))
            else:
                outcome = Outcome.COMPLETED if what == "complete" else Outcome.APP_FAILED
                reply = self.harness.finish(job_id, by_hand, outcome)
                self.witness.reported_by_hand(job_id, outcome, reply)
            self.say("a user wants", what, "of", job_id, "→", reply)
            return reply

        self.send(None, act, lambda _: None)

    def reap(self) -> None:
        """The platform puts back what has expired."""
        self.serve(self.harness.reap_where_needed)

    def relay_ticks(self) -> None:
        """The platform passes events on; it may die over it."""
        try:
            self.relay.tick()
        except UnavailableError:
            self.say("the relay dies")

    def server_forgets_scripts(self) -> None:
        """As after a restart, or by an operator's hand."""
        self._client.script_flush()
        self.say("scripts are flushed")

    def server_restarts(self) -> None:
        """The server is killed and started again from its append-only file."""
        if self._restart is not None and not self.calm:
            self._restart()
            self.restarts += 1
            self.say("the server restarts")

    # The end

    def heal(self) -> None:
        """All faults end, and two nodes join that nobody knows yet."""
        self.calm = True
        self.say("all faults end")
        for node in self.nodes:
            node.frozen_until = min(node.frozen_until, self.now)
            node.cut_until = min(node.cut_until, self.now)
        for node in self.fresh:
            self.start(node)
        self.user_helps()
        self.every(60_000, self.user_helps)

    def user_helps(self) -> None:
        """An owner ends his holds, and gives a job that is banned everywhere another chance."""
        for job_id in self.unfinished():
            self.serve(lambda job_id=job_id: self.harness.resume(job_id))
            self.witness.held(job_id, None, on=False)
            reply = self.serve(lambda job_id=job_id: self.harness.unban(job_id, None))
            self.witness.unbanned(job_id, reply)

    def unfinished(self) -> list[str]:
        """The jobs that still live."""
        return [job_id for job_id, seen in self.witness.jobs.items() if not seen.ended]

    def is_done(self) -> bool:
        """Whether every job has ended."""
        return not self.unfinished()

    def _verify(self) -> None:
        assert self.is_done(), f"nothing happens any more, and these jobs wait: {self.unfinished()}"
        if self.units:
            self.harness.check()
        self.faults.relay_trouble = 0.0
        while self.relay.tick():
            pass
        told = self.deliveries.told()
        self.webhooks = len(told)
        self.witness.verify(self.store, told)
        for status, count in Counter(self.witness.statuses(self.store).values()).items():
            self.say(count, status)


@dataclass
class Totals:
    """What many seeds did."""

    seeds: int = 0
    messages: int = 0
    story: Counter[str] = field(default_factory=Counter)

    def add(self, world: World) -> None:
        """Counts a finished world in."""
        self.seeds += 1
        self.messages += world.messages
        self.story += world.witness.counts
        self.story["webhooks"] += world.webhooks
        self.story["restarts"] += world.restarts

    def __str__(self) -> str:
        told = ", ".join(f"{count} {what}" for what, count in sorted(self.story.items()))
        return f"{self.seeds} seeds, {self.messages} messages: {told}"


def run_seed(
    client: Client, seed: int, *, trace: list[str] | None = None, **world_settings: Any
) -> tuple[World, str]:
    """One world from its beginning to its end, and the digest of its story. Raises AssertionError."""
    with seeded(random.Random(seed)), patch.object(relay_module, "log") as log:
        world = World(client, seed, **world_settings)
        world.trace = trace
        digest = world.run()
        assert not log.exception.called, log.exception.call_args
    return world, digest


def restarting(server: ValkeyServer, client: Client) -> Callable[[], None]:
    """What kills a server and brings it back with all that it had acknowledged."""

    def restart() -> None:
        server.kill()
        server.start()
        client.reconnect()

    return restart


def main(arguments: Sequence[str]) -> int:
    """Runs seeds on a Valkey of its own; 1 when one of them fails."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.proof.simulation", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--seed", type=int, help="replay this one alone")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--restarts", action="store_true", help="kill the server in each seed")
    parser.add_argument("--trace", action="store_true", help="print the whole story")
    options = parser.parse_args(arguments)
    first = options.first_seed if options.seed is None else options.seed
    seeds = range(first, first + (options.seeds if options.seed is None else 1))
    fsync = "always" if options.restarts else "no"
    with tempfile.TemporaryDirectory() as directory, ValkeyServer(directory, appendfsync=fsync) as server:
        client = make_client(server.url)
        restart = restarting(server, client) if options.restarts else None
        started = time.monotonic()
        totals = Totals()
        for seed in seeds:
            trace: list[str] = []
            try:
                world, digest = run_seed(client, seed, restart=restart, trace=trace)
            except Exception as error:  # noqa: BLE001 - it is told
                print("\n".join(trace if options.trace else trace[-30:]))
                print(f"seed {seed} fails: {type(error).__name__}: {error}")
                return 1
            totals.add(world)
            if options.trace:
                print("\n".join(trace))
            if options.seed is not None:
                print(f"seed {seed}: digest {digest}")
        print(f"seeds {first}…{seeds[-1]} hold. {totals} ({time.monotonic() - started:.1f} s)")
        client.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
