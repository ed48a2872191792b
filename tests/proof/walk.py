"""A seeded random walk over the protocol, compared with the model. Each seed draws its own mix of commands.

    python -m tests.proof.walk [--seeds N] [--first-seed N] [--steps N]
    python -m tests.proof.walk --seed N          replay one seed; a failure is printed with the fewest steps

Swarm testing (Groce et al., ISSTA 2012): a seed enables a random part of the commands with random weights, so
that rare combinations, such as many failures without any cancel, come up in some of them.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kelpie.embedded.valkey import ValkeyServer
from kelpie.job import Holder, JobSpec, Lease, Outcome
from tests.factories import spec
from tests.proof.comparison import LABELS
from tests.proof.harness import Harness
from tests.proof.virtual import Client, make_client, seeded

STEPS = 250
NODES = ("n1", "n2", "n3", "n4")
OUTCOMES = (Outcome.COMPLETED, Outcome.APP_FAILED, Outcome.SYNC_FAILED, Outcome.RELEASED)
CLOCK_MOVES = (
    1,
    400,
    749,
    750,
    1500,
    2999,
    3750,
    4999,
    5000,
    5001,
    9_999,
    10_000,
    3_600_000,
    90_000_000,
    -1,
    -20_000,
)
"""Around what the protocol counts by: three quarters of a heartbeat interval, a lease, the clock's step."""

BANS = ("poll", "finish", "submit", "unban", "prioritize")
OWNERS = ("hold", "resume", "requeue", "unban", "prioritize", "by_hand", "lease_runs_out")
TIME = ("time_passes", "heartbeat", "poll")
LATE = ("lease_runs_out", "by_hand", "heartbeat", "finish", "poll_again")
THEMES = (BANS, OWNERS, TIME, LATE)
"""Commands that a seed draws more often: what they do together is rare otherwise."""

Step = tuple[str, int]
"""A command, and the seed of what it draws: dropping other steps does not change it."""


@dataclass
class Plan:
    """What a seed decides before its first step."""

    steps: list[Step]
    nodes: tuple[str, ...]
    groups: tuple[str, ...]
    max_jobs: int
    outcomes: tuple[Outcome, ...]
    clock_moves: tuple[int, ...]
    recent: float  # how often a lease is chosen among the newest
    special: float  # how often a job has what few jobs have: a delay, a pause after failures, labels
    repeats: float  # how often a message is sent again at once
    checked_every: int


def plan_of(seed: int, steps: int = STEPS) -> Plan:
    """The plan of a seed."""
    draw = random.Random(seed)
    weights = {name: draw.choice((0, 0, 1, 1, 3, 8)) for name in COMMANDS}
    weights["submit"] = max(weights["submit"], 1)
    weights["poll"] = max(weights["poll"], 2)
    theme = draw.choice((*THEMES, ()))
    for name in theme:
        weights[name] = draw.choice((3, 8))
    for rare in ("purge", "clear", "cancel", "expire"):
        weights[rare] = draw.choice((0, 0, 0, 1))
    names, chances = list(weights), list(weights.values())
    chosen = draw.choices(names, chances, k=steps)
    return Plan(
        steps=[(name, draw.getrandbits(32)) for name in chosen],
        nodes=NODES[: draw.randint(1, len(NODES))],
        groups=("group-1",) if draw.random() < 0.85 else ("group-1", "group-2"),
        max_jobs=16 if theme is BANS else draw.choice((1, 2, 4, 8, 24)),
        outcomes=(Outcome.APP_FAILED,)
        if theme is BANS
        else draw.choice(
            (OUTCOMES, (Outcome.APP_FAILED,), (Outcome.APP_FAILED, Outcome.RELEASED), OUTCOMES[:2])
        ),
        clock_moves=CLOCK_MOVES[:8]
        if theme is TIME
        else tuple(draw.sample(CLOCK_MOVES, draw.randint(2, len(CLOCK_MOVES)))),
        recent=draw.choice((0.5, 0.8, 0.95)),
        special=draw.choice((0.2, 0.6) if theme is OWNERS else (0.0, 0.0, 0.2, 0.6)),
        repeats=draw.choice((0.0, 0.1, 0.4)),
        checked_every=draw.choice((1, 2, 4)),
    )


@dataclass
class Walk:
    """One walk under way."""

    harness: Harness
    plan: Plan
    draw: random.Random = field(default_factory=random.Random)
    leases: list[Lease] = field(default_factory=list)  # every one ever granted: zombies keep theirs for ever
    polls: list[tuple[str, str, str]] = field(default_factory=list)
    submissions: list[tuple[str, list[JobSpec]]] = field(default_factory=list)
    requests: int = 0

    def run(self) -> None:
        """All steps. Raises Disagreement."""
        for number, step in enumerate(self.plan.steps, start=1):
            self.step(step)
            if number % self.plan.checked_every == 0:
                self.harness.check()
        self.harness.check()
        self.harness.purge_all()

    def step(self, step: Step) -> None:
        """One command."""
        name, seed = step
        self.draw.seed(seed)
        COMMANDS[name](self)

    # What the commands draw

    def sends(self) -> int:
        return self.draw.choice((2, 2, 3)) if self.draw.random() < self.plan.repeats else 1

    def group(self) -> str:
        return self.draw.choice(self.plan.groups)

    def a_lease(self) -> Lease | None:
        if not self.leases:
            return None
        recent = self.leases[-4:] if self.draw.random() < self.plan.recent else self.leases
        return self.draw.choice(recent)

    def a_job(self) -> str | None:
        jobs = list(self.harness.homes)
        if not jobs:
            return None
        return self.draw.choice(jobs[-self.plan.max_jobs :] if self.draw.random() < 0.9 else jobs)

    def a_holder(self, lease: Lease) -> Holder:
        """The lease's owner as a worker of ours, as an old one, or somebody else altogether."""
        node = lease.job.machine_id or ""
        chance = self.draw.random()
        if chance < 0.6:
            return Holder(self.draw.choice((node, "renamed")), lease.secret, self.draw.random() < 0.3)
        if chance < 0.9:
            return Holder(node, may_report_unheld=self.draw.random() < 0.5)
        if chance < 0.95:
            return Holder(self.draw.choice(self.plan.nodes), may_report_unheld=self.draw.random() < 0.5)
        return Holder(node, "0" * 64, self.draw.random() < 0.5)

    # The commands

    def submit(self) -> None:
        live = sum(len(queue.model.jobs) for queue in self.harness.queues.values())
        if live >= self.plan.max_jobs:
            return self.poll()
        how = self.a_definition()
        if len(self.plan.groups) > 1 and self.draw.random() < 0.3:
            specs = [spec(container_group_id=group, **how) for group in self.plan.groups]
        else:
            specs = [spec(container_group_id=self.group(), **how)] * self.draw.choice((1, 1, 1, 3))
        key = f"key-{len(self.submissions)}" if self.draw.random() < 0.3 else None
        # A transaction is not sent again: the client reports its loss.
        sends = self.sends() if len({one.container_group_id for one in specs}) == 1 else 1
        self.harness.submit_specs(specs, sends=sends, idempotency_key=key)
        if key is not None:
            self.submissions.append((key, specs))

    def a_definition(self) -> dict[str, Any]:
        how: dict[str, Any] = {
            "priority": self.draw.choice((0, 0, 1, 255)),
            "max_failures": self.draw.choice((1, 2, 3, 3, 5)),
            "heartbeat_interval": self.draw.choice((1, 2, 5, 30)),
        }
        if self.draw.random() < self.plan.special:
            how["retry_backoff_s"] = self.draw.choice((0, 1, 4, 50_000))
        if self.draw.random() < self.plan.special:
            how["not_before"] = self.harness.clock.now + self.draw.choice((-1000, 0, 1, 900, 5000, 20_000))
        if self.draw.random() < self.plan.special:
            how["max_runtime_s"] = self.draw.choice((1, 3, 10))
        if self.draw.random() < self.plan.special:
            how["labels"] = dict([self.draw.choice(LABELS).split("=")])
        return how

    def submit_again(self) -> None:
        """The reply to a submit was lost, or its key is used for something else."""
        if not self.submissions:
            return self.submit()
        key, specs = self.draw.choice(self.submissions)
        if self.draw.random() < 0.2:
            specs = specs * 2
        self.harness.submit_specs(specs, idempotency_key=key)

    def poll(self) -> None:
        group, node = self.group(), self.draw.choice(self.plan.nodes)
        self.requests += 1
        self._lease(group, node, f"request-{self.requests}")

    def poll_again(self) -> None:
        """The reply to a poll was lost, maybe long ago."""
        if not self.polls:
            return self.poll()
        newest = self.polls[-3:] if self.draw.random() < 0.7 else self.polls
        self._lease(*self.draw.choice(newest))

    def _lease(self, group: str, node: str, request_id: str) -> None:
        lease = self.harness.lease(group, node, request_id, sends=self.sends())
        self.polls.append((group, node, request_id))
        if lease is not None:
            self.leases.append(lease)

    def heartbeat(self) -> None:
        lease = self.a_lease()
        if lease is None:
            return self.poll()
        self.harness.heartbeat(lease.job.id, self.a_holder(lease), sends=self.sends())

    def finish(self) -> None:
        lease = self.a_lease()
        if lease is None:
            return self.poll()
        self.harness.finish(
            lease.job.id,
            self.a_holder(lease),
            self.draw.choice(self.plan.outcomes),
            exit_code=self.draw.choice((None, 0, 1, 137)),
            reason=self.draw.choice((None, "", "out of memory")),
            sends=self.sends(),
        )

    def by_hand(self) -> None:
        job_id = self.a_job()
        if job_id is None:
            return self.submit()
        holder = Holder(self.draw.choice(("a-laptop", *self.plan.nodes)), may_report_unheld=True)
        outcome = self.draw.choice((Outcome.COMPLETED, Outcome.APP_FAILED, Outcome.APP_FAILED))
        if self.draw.random() < 0.1:
            outcome = self.draw.choice(OUTCOMES)
        self.harness.finish(job_id, holder, outcome, sends=self.sends())

    def time_passes(self) -> None:
        self.harness.set_clock(self.draw.choice(self.plan.clock_moves))

    def lease_runs_out(self) -> None:
        """Time passes while something looks at the queue now and then, as in production."""
        left_ms = self.draw.choice((2000, 4000, 10_000, 60_000))
        while left_ms > 0:
            self.harness.set_clock(min(left_ms, 4000))
            left_ms -= 4000
            for group in self.plan.groups:
                self.harness.reap(group, sends=self.sends())

    def reap(self) -> None:
        self.harness.reap(self.group(), sends=self.sends())

    def cancel(self) -> None:
        job_id = self.a_job()
        if job_id is not None:
            self.harness.cancel(job_id, sends=self.sends())

    def hold(self) -> None:
        job_id = self.a_job()
        if job_id is not None:
            self.harness.hold(job_id, sends=self.sends())

    def resume(self) -> None:
        job_id = self.a_job()
        if job_id is not None:
            self.harness.resume(job_id, sends=self.sends())

    def requeue(self) -> None:
        job_id = self.a_job()
        if job_id is not None:
            self.harness.requeue(job_id, sends=self.sends())

    def unban(self) -> None:
        job_id = self.a_job()
        if job_id is not None:
            self.harness.unban(job_id, self.draw.choice((None, *self.plan.nodes)), sends=self.sends())

    def prioritize(self) -> None:
        job_id = self.a_job()
        if job_id is not None:
            self.harness.prioritize(job_id, self.draw.choice((0, 1, 254, 255)), sends=self.sends())

    def expire(self) -> None:
        self.harness.expire(self.group(), self.draw.choice((0, 5000, -1)))

    def purge(self) -> None:
        job_id = self.a_job()
        if job_id is not None:
            self.harness.purge(job_id, sends=self.sends())

    def clear(self) -> None:
        self.harness.clear(self.group())


COMMANDS = {
    "submit": Walk.submit,
    "submit_again": Walk.submit_again,
    "poll": Walk.poll,
    "poll_again": Walk.poll_again,
    "heartbeat": Walk.heartbeat,
    "finish": Walk.finish,
    "by_hand": Walk.by_hand,
    "time_passes": Walk.time_passes,
    "lease_runs_out": Walk.lease_runs_out,
    "reap": Walk.reap,
    "cancel": Walk.cancel,
    "hold": Walk.hold,
    "resume": Walk.resume,
    "requeue": Walk.requeue,
    "unban": Walk.unban,
    "prioritize": Walk.prioritize,
    "expire": Walk.expire,
    "purge": Walk.purge,
    "clear": Walk.clear,
}


def run_seed(client: Client, seed: int, steps: int = STEPS, mutated: Mapping[str, str] | None = None) -> int:
    """Walks one seed; how many steps that were. Raises Disagreement."""
    run_plan(client, plan_of(seed, steps), mutated)
    return steps


def run_plan(client: Client, plan: Plan, mutated: Mapping[str, str] | None = None) -> None:
    """Walks a plan on an empty database."""
    with seeded(random.Random(0)):
        harness = Harness(client, groups=plan.groups, nodes=plan.nodes, mutated=mutated)
        Walk(harness, plan).run()


def shrink(client: Client, plan: Plan, mutated: Mapping[str, str] | None = None) -> Plan:
    """The plan with as few steps as still fail: halves are dropped, then quarters, down to single steps."""
    steps = plan.steps
    size = len(steps) // 2
    while size:
        start = 0
        while start < len(steps):
            shorter = steps[:start] + steps[start + size :]
            if _fails(client, _with_steps(plan, shorter), mutated):
                steps = shorter
            else:
                start += size
        size //= 2
    return _with_steps(plan, steps)


def _with_steps(plan: Plan, steps: list[Step]) -> Plan:
    return Plan(**{**plan.__dict__, "steps": steps, "checked_every": 1})


def _fails(client: Client, plan: Plan, mutated: Mapping[str, str] | None) -> bool:
    try:
        run_plan(client, plan, mutated)
    except Exception:  # noqa: BLE001 - whatever it is: it goes wrong
        return True
    return False


def explain(client: Client, seed: int, steps: int = STEPS) -> str:
    """A failing seed in words: the fewest steps that fail, and what goes wrong at the last."""
    plan = shrink(client, plan_of(seed, steps))
    lines = [f"seed {seed} fails; these of its {steps} steps are enough:"]
    lines += [f"  {number:3}. {name} ({drawn})" for number, (name, drawn) in enumerate(plan.steps, start=1)]
    try:
        run_plan(client, plan)
    except Exception as error:  # noqa: BLE001 - it is told
        lines.append(f"{type(error).__name__}: {error}")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Walks seeds on a Valkey of its own; 1 when one of them fails."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.proof.walk", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--seed", type=int, help="replay this one alone")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=400)
    parser.add_argument("--steps", type=int, default=STEPS, help="per seed")
    options = parser.parse_args(arguments)
    first = options.first_seed if options.seed is None else options.seed
    seeds = range(first, first + (options.seeds if options.seed is None else 1))
    with tempfile.TemporaryDirectory() as directory, ValkeyServer(directory, appendfsync="no") as server:
        client = make_client(server.url)
        started = time.monotonic()
        total = 0
        for seed in seeds:
            try:
                total += run_seed(client, seed, options.steps)
            except Exception:  # noqa: BLE001 - it is told
                print(explain(client, seed, options.steps))
                return 1
        took_s = time.monotonic() - started
        print(
            f"seeds {first}…{seeds[-1]}: {total} steps agree with the model "
            f"({took_s:.1f} s, {total / took_s:.0f} steps/s)"
        )
        client.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
