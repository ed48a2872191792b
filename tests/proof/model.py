"""The lease protocol in plain Python: what every command answers and leaves behind. Knows no Redis.

One :class:`Model` stands for one queue. It is written for reading, not for speed: no index, no second copy of
anything, sorting instead of scores. Whatever the scripts keep is derived from it and compared with it. Its
methods raise the store's own errors where a command is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from kelpie.errors import ConflictError, LeaseLostError, NotFoundError
from kelpie.job import FAILURES, LIVE, TERMINAL, Attempt, HeartbeatReply, JobStatus, Outcome

MAX_CLOCK_STEP_MS = 5000
"""The logical clock of a queue takes at most this much of a forward jump."""

COUNTED_AFTER = 0.75
"""A heartbeat counts when this part of the interval has passed since the last one that counted."""

Secret = tuple[str, str]
"""A lease's secret: it is made of the node and its request id, so the model knows it by these."""

Shown = tuple[int, Secret]
"""A lease as its holder shows it: fencing token and secret. A repeated poll has the same secret again."""

MAX_BACKOFF_MS = 24 * 3600 * 1000
POLLS_KEPT_MS = 24 * 3600 * 1000
NODE_JOBS_KEPT_MS = 30 * 24 * 3600 * 1000
"""How long it is known which jobs a node was given, from the last new one."""


@dataclass
class Clock:
    """The server's time in ms. Tests move it: forward, back, by leaps."""

    now: int


@dataclass(frozen=True)
class NewJob:
    """What is submitted."""

    id: str
    priority: int
    max_failures: int
    lease_ms: int
    not_before: int | None = None
    retry_backoff_ms: int = 0
    max_runtime_ms: int | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelEvent:
    """One entry of the event stream."""

    type: str
    job_id: str
    attempt: int
    node: str | None
    status: str
    time: int


@dataclass(frozen=True)
class Caller:
    """Who sends a heartbeat or a report: judged by the lease that it shows, else by the name of its node."""

    node: str
    lease: Shown | None = None
    shows_lease: bool = False
    by_hand: int | None = None  # a user may report on a job that nobody holds: the number of his report


@dataclass(frozen=True)
class Grant:
    """What a node is given."""

    job_id: str
    attempt: int
    fence: int
    expires: int


@dataclass(frozen=True)
class Report:
    """What a report is told: status, failures, and live jobs that the node is banned from."""

    status: JobStatus
    num_failures: int
    node_bans: int


@dataclass
class ModelJob:
    """A job and its last attempt, which is held, expired (nobody has taken the job since) or closed."""

    id: str
    number: int  # order of submission
    priority: int
    max_failures: int
    lease_ms: int
    order_us: int  # of creation, strictly increasing
    retry_backoff_ms: int
    max_runtime_ms: int | None
    labels: tuple[str, ...]
    due: int | None  # not leased before this time; None: it may be leased
    on_hold: bool = False
    status: JobStatus = JobStatus.PENDING
    started: int | None = None
    ended: int | None = None
    failures: int = 0
    heartbeats: int = 0
    heartbeat: int | None = None
    bans: list[str] = field(default_factory=list)
    by_hand: int | None = None
    history: list[Attempt] = field(default_factory=list)
    # of the last attempt
    attempt: int = 0
    state: str | None = None
    node: str | None = None
    secret: Secret | None = None
    fence: int = 0
    attempt_started: int = 0
    expired: int | None = None
    run_until: int | None = None  # on the logical clock
    counted: int | None = None  # on the logical clock; over all attempts
    outcome: Outcome | None = None
    deadline: int = 0  # on the logical clock
    alive_until: int | None = None  # on the server's clock: when its heartbeat key expires; None: it is gone

    @property
    def live(self) -> bool:
        """Whether it has not ended."""
        return self.status in LIVE

    @property
    def created(self) -> int:
        """When, in ms."""
        return self.order_us // 1000

    @property
    def held(self) -> bool:
        """Whether an attempt holds a lease."""
        return self.state == "held"

    @property
    def waits(self) -> bool:
        """Whether a node may take it."""
        return self.live and not self.held and not self.on_hold and self.due is None

    @property
    def delayed(self) -> bool:
        """Whether it waits for a time."""
        return self.live and not self.held and not self.on_hold and self.due is not None

    @property
    def rank(self) -> tuple[bool, int, int]:
        """Its place among those that wait: resumed before never started, then priority, then age."""
        return (self.status is JobStatus.PENDING, -self.priority, self.number)

    @property
    def attempts(self) -> list[Attempt]:
        """Its history, the open attempt last."""
        if self.state is None:
            return self.history
        assert self.node is not None
        interrupted = Outcome.INTERRUPTED if self.state == "expired" else None
        return [
            *self.history,
            Attempt(
                self.attempt,
                self.node,
                self.attempt_started,
                self.expired,
                interrupted,
                last_heartbeat=self.heartbeat,
            ),
        ]


class Model:
    """One queue."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.jobs: dict[str, ModelJob] = {}
        self.events: list[ModelEvent] = []
        self.wakes: list[int] = []  # jobs that became claimable, as each command announced them
        self._wall: int | None = None  # the server's time when a command last ran
        self._logical = 0
        self.polls: dict[str, int] = {}  # last one of each node
        self.given: dict[str, set[str]] = {}  # jobs that each node was given
        self.counters: Counter[str] = Counter()
        self.given_until: dict[str, int] = {}
        self._became_waiting = 0
        self._submitted = 0
        self._order_us = 0
        self._fence = 0

    # The commands

    def submit(self, jobs: Sequence[NewJob]) -> list[int]:
        """The time of creation of each. A job that is known already is left alone."""
        self._tick()
        created = []
        for new in jobs:
            known = self.jobs.get(new.id)
            if known is None:
                self._submitted += 1
                self._order_us = max(self._order_us + 1, self.clock.now * 1000)
                known = ModelJob(
                    id=new.id,
                    number=self._submitted,
                    priority=new.priority,
                    max_failures=new.max_failures,
                    lease_ms=new.lease_ms,
                    order_us=self._order_us,
                    retry_backoff_ms=new.retry_backoff_ms,
                    max_runtime_ms=new.max_runtime_ms,
                    labels=new.labels,
                    due=new.not_before,
                )
                self.jobs[new.id] = known
                self._settle(known)
                self._emit("submitted", known)
            created.append(known.created)
        self._announce()
        return created

    def lease(self, secret: Secret, reap_limit: int) -> Grant | None:
        """The best waiting job that does not ban the node; the same again for a request that holds one."""
        self._tick()
        node = secret[0]
        self.polls[node] = self.clock.now
        for job in self.jobs.values():
            if job.state and job.secret == secret:
                self._renew(job)
                return self._grant(job)
        self._put_back(reap_limit)
        self._promote(reap_limit)
        self._announce()
        waiting = self.waiting(but_not_for=node)
        if not waiting:
            return None
        job = waiting[0]
        if job.state:
            self._close(job, Outcome.INTERRUPTED, job.expired)
        if job.status is JobStatus.PENDING:
            job.status, job.started = JobStatus.RUNNING, self.clock.now
        self._fence = max(self._fence + 1, self.clock.now * 1000)
        job.attempt, job.node, job.secret, job.fence = job.attempt + 1, node, secret, self._fence
        job.state, job.attempt_started, job.outcome = "held", self.clock.now, None
        if job.max_runtime_ms is not None:
            job.run_until = self._logical + job.max_runtime_ms
        if job.id not in self.given.setdefault(node, set()):
            self.given[node].add(job.id)
            self.given_until[node] = self.clock.now + NODE_JOBS_KEPT_MS
        self._renew(job)
        self._emit("running", job)
        return self._grant(job)

    def heartbeat(self, job_id: str, caller: Caller) -> HeartbeatReply:
        """Renews the lease of a caller that holds the job; tells another why it does not."""
        self._tick()
        job = self._known(job_id)
        refusal = None
        if not self._speaks_for(caller, job):
            refusal = self._refusal(caller, job)
            if refusal == "not_holder" and not job.live:
                refusal = job.status.value
        elif not job.live:
            refusal = job.status.value
        elif not job.state:
            refusal = "closed"
        if refusal:
            return HeartbeatReply(JobStatus.CANCELED, refusal)
        if job.run_until is not None and self._logical >= job.run_until:
            self._fail_attempt(job, Outcome.APP_FAILED, None, "it ran for longer than max_runtime_s")
            self._announce()
            return HeartbeatReply(JobStatus.CANCELED, "max_runtime")
        interval_ms = job.lease_ms / 2
        if job.counted is None or self._logical - job.counted >= COUNTED_AFTER * interval_ms:
            job.heartbeats += 1
            job.counted = self._logical
        self._renew(job)
        return HeartbeatReply(job.status, None, self.clock.now + job.lease_ms)

    def finish(
        self,
        job_id: str,
        caller: Caller,
        outcome: Outcome,
        exit_code: int | None = None,
        reason: str | None = None,
    ) -> Report:
        """How an attempt ended, says its holder; or how a job ended that nobody holds, says its owner."""
        self._tick()
        job = self._known(job_id)
        if caller.by_hand is not None and caller.by_hand == job.by_hand:  # the reply to it was lost
            mine = self._speaks_for(caller, job)
            return self._report(job, job.node if mine and job.node else caller.node)
        if self._speaks_for(caller, job):
            self._finish_as_holder(job, outcome, exit_code, reason)
            self._announce()
            assert job.node is not None
            return self._report(job, job.node)
        self._finish_by_hand(job, caller, outcome)
        self._announce()
        return self._report(job, caller.node)

    def cancel(self, job_id: str) -> JobStatus:
        """Ends a live job at once."""
        self._tick()
        job = self._known(job_id)
        if job.live:
            self._cancel(job)
        elif job.status is not JobStatus.CANCELED:
            raise ConflictError("")
        return job.status

    def hold(self, job_id: str) -> None:
        """Keeps a live job from being leased; a node that runs it goes on."""
        job = self._known_live(job_id)
        if not job.on_hold:
            job.on_hold = True
            self._emit("held", job)

    def resume(self, job_id: str) -> None:
        """Ends a hold."""
        job = self._known_live(job_id)
        if job.on_hold:
            job.on_hold = False
            if not job.held:
                self._settle(job)
            self._emit("resumed", job)
            self._announce()

    def requeue(self, job_id: str) -> None:
        """Opens a failed or canceled job again; ends the pause of a delayed one."""
        self._tick()
        job = self._known(job_id)
        if job.status is JobStatus.COMPLETED:
            raise ConflictError("")
        if not job.live:
            job.status = JobStatus.RUNNING if job.attempt else JobStatus.PENDING
            job.ended, job.failures, job.by_hand = None, 0, None
            job.bans = []
        elif not job.delayed:
            return
        job.due = None
        self._settle(job)
        self._emit("requeued", job)
        self._announce()

    def unban(self, job_id: str, node: str | None) -> None:
        """Lets a node, or every node, have a job again."""
        job = self._known_live(job_id)
        kept = [banned for banned in job.bans if node is not None and banned != node]
        if len(kept) < len(job.bans):
            job.bans = kept
            self.events.append(
                ModelEvent("unbanned", job.id, job.attempt, node, job.status.value, self.clock.now)
            )
            self.counters["unbanned"] += 1
            self._became_waiting += job.waits
            self._announce()

    def prioritize(self, job_id: str, priority: int) -> None:
        """Gives a live job another place among those that wait; its age stays."""
        job = self._known_live(job_id)
        if job.priority != priority:
            job.priority = priority
            self._emit("prioritized", job)

    def expire(self, before: int) -> int:
        """Deletes what was created and has ended before a time; how many jobs these were."""
        self._tick()
        gone = 0
        for status in sorted(TERMINAL):
            for job in [job for job in self.jobs.values() if job.status is status]:
                assert job.ended is not None
                if job.ended < before and job.order_us <= before * 1000:
                    self._purge(job)
                    gone += 1
        return gone

    def purge(self, job_id: str) -> None:
        """Deletes a job and all that is known of it."""
        job = self._known(job_id)
        self._tick()
        self._purge(job)

    def clear(self) -> int:
        """Purges the pending jobs, cancels the running ones; how many these were."""
        pending = [job for job in self.jobs.values() if job.status is JobStatus.PENDING]
        running = [job for job in self.jobs.values() if job.status is JobStatus.RUNNING]
        self._tick()
        for job in pending:
            self._purge(job)
        for job in running:
            self._cancel(job)
        return len(pending) + len(running)

    def reap(self, limit: int) -> int:
        """Puts back jobs whose lease has expired; how many these were."""
        self._tick()
        expired = self._put_back(limit)
        self._promote(limit)
        self.polls = {
            node: time for node, time in self.polls.items() if time > self.clock.now - POLLS_KEPT_MS
        }
        self._announce()
        return expired

    # What is looked at from outside

    def waiting(self, *, but_not_for: str | None = None) -> list[ModelJob]:
        """The claimable jobs in the order in which they are handed out."""
        found = (job for job in self.jobs.values() if job.waits and but_not_for not in job.bans)
        return sorted(found, key=lambda job: job.rank)

    def banned_from(self, node: str) -> list[ModelJob]:
        """The live jobs that ban a node."""
        return [job for job in self.jobs.values() if job.live and node in job.bans]

    def time_moved(self) -> None:
        """The server's clock was set: heartbeat keys whose end has come are gone for good."""
        for job in self.jobs.values():
            if job.alive_until is not None and job.alive_until <= self.clock.now:
                job.alive_until = None
        for node, end in list(self.given_until.items()):
            if end <= self.clock.now:
                del self.given_until[node], self.given[node]

    # The moves

    def _tick(self) -> None:
        if self._wall is None:
            self._logical = self.clock.now
        else:
            self._logical += max(0, min(self.clock.now - self._wall, MAX_CLOCK_STEP_MS))
        self._wall = self.clock.now

    def _known(self, job_id: str) -> ModelJob:
        if job_id not in self.jobs:
            raise NotFoundError("")
        return self.jobs[job_id]

    def _known_live(self, job_id: str) -> ModelJob:
        self._tick()
        job = self._known(job_id)
        if not job.live:
            raise ConflictError("")
        return job

    def _settle(self, job: ModelJob) -> None:
        """A live job that nobody holds waits for its owner, for a time, or for a node."""
        if not job.on_hold and (job.due is None or job.due <= self.clock.now):
            job.due = None
            self._became_waiting += 1

    def _promote(self, limit: int) -> None:
        due = [(job.due, job.id) for job in self.jobs.values() if job.delayed]
        for time, job_id in sorted((time, job_id) for time, job_id in due if time is not None)[:limit]:
            if time <= self.clock.now:
                self._settle(self.jobs[job_id])

    def _speaks_for(self, caller: Caller, job: ModelJob) -> bool:
        if job.attempt == 0:
            return False
        if caller.shows_lease:
            return caller.lease is not None and caller.lease == (job.fence, job.secret)
        return caller.node == job.node

    def _refusal(self, caller: Caller, job: ModelJob) -> str:
        if caller.shows_lease:
            return "superseded" if job.attempt > 1 else "not_holder"
        return "superseded" if any(past.node == caller.node for past in job.history) else "not_holder"

    def _report(self, job: ModelJob, node: str) -> Report:
        return Report(job.status, job.failures, len(self.banned_from(node)))

    def _grant(self, job: ModelJob) -> Grant:
        return Grant(job.id, job.attempt, job.fence, self.clock.now + job.lease_ms)

    def _renew(self, job: ModelJob) -> None:
        job.deadline = self._logical + job.lease_ms
        job.alive_until = self.clock.now + job.lease_ms
        job.heartbeat = self.clock.now
        if job.state == "expired":
            job.state, job.expired, job.due = "held", None, None
            self._emit("revived", job)

    def _put_back(self, limit: int) -> int:
        due = [job for job in self.jobs.values() if job.held and job.deadline <= self._logical]
        expired = 0
        for job in sorted(due, key=lambda job: (job.deadline, job.id))[:limit]:
            left_ms = 0 if job.alive_until is None else job.alive_until - self.clock.now
            if left_ms > job.lease_ms:  # the server's clock went back
                left_ms = job.lease_ms
                job.alive_until = self.clock.now + left_ms
            if left_ms > 0:
                job.deadline = self._logical + left_ms
                continue
            job.state = "expired"
            job.expired = self.clock.now - (self._logical - job.deadline)
            job.alive_until = None
            self._settle(job)
            self._emit("interrupted", job)
            expired += 1
        return expired

    def _close(
        self,
        job: ModelJob,
        outcome: Outcome,
        end: int | None,
        exit_code: int | None = None,
        reason: str | None = None,
    ) -> None:
        assert job.node is not None
        job.history.append(
            Attempt(
                job.attempt,
                job.node,
                job.attempt_started,
                end,
                outcome,
                exit_code,
                reason or None,
                job.heartbeat,
            )
        )
        job.state, job.expired, job.alive_until, job.outcome = None, None, None, outcome
        job.run_until = None
        self.counters[f"attempts_{outcome}"] += 1
        if outcome is Outcome.INTERRUPTED:
            assert job.heartbeat is not None
            self.counters["lost_ms"] += max(0, job.heartbeat - job.attempt_started)

    def _end(self, job: ModelJob, status: JobStatus) -> None:
        job.status, job.ended = status, self.clock.now
        job.due, job.on_hold = None, False
        self._emit(status.value, job)

    def _cancel(self, job: ModelJob) -> None:
        if job.held:
            self._close(job, Outcome.CANCELED, self.clock.now)
        elif job.state:
            self._close(job, Outcome.INTERRUPTED, job.expired)
        self._end(job, JobStatus.CANCELED)

    def _purge(self, job: ModelJob) -> None:
        del self.jobs[job.id]
        if job.node in self.given:
            self.given[job.node].discard(job.id)
            if not self.given[job.node]:  # Redis keeps no empty set
                del self.given[job.node], self.given_until[job.node]
        self._emit("purged", job)

    def _finish_as_holder(
        self, job: ModelJob, outcome: Outcome, exit_code: int | None, reason: str | None
    ) -> None:
        if not job.state:
            if job.outcome is outcome:
                return  # the same report again
            raise LeaseLostError("", reason="closed" if job.live else job.status.value)
        if outcome in FAILURES:
            self._fail_attempt(job, outcome, exit_code, reason)
            return
        self._close(job, outcome, self.clock.now, exit_code, reason)
        if outcome is Outcome.COMPLETED:
            self._end(job, JobStatus.COMPLETED)
        else:
            self._settle(job)
            self._emit("released", job)

    def _fail_attempt(
        self, job: ModelJob, outcome: Outcome, exit_code: int | None, reason: str | None
    ) -> None:
        assert job.node is not None
        self._close(job, outcome, self.clock.now, exit_code, reason)
        job.bans.append(job.node)
        self._count_failure(job, outcome, job.node)

    def _finish_by_hand(self, job: ModelJob, caller: Caller, outcome: Outcome) -> None:
        refusal = self._refusal(caller, job)
        needs_holder = outcome is Outcome.RELEASED
        if (
            caller.shows_lease
            or caller.by_hand is None
            or refusal == "superseded"
            or job.held
            or needs_holder
        ):
            ended = refusal == "not_holder" and not job.live
            raise LeaseLostError("", reason=job.status.value if ended else refusal)
        if not job.live:
            if outcome.value == job.status.value:
                return
            raise LeaseLostError("", reason=job.status.value)
        job.by_hand = caller.by_hand
        if outcome is Outcome.COMPLETED:
            if job.state:
                self._close(job, Outcome.SUPERSEDED, job.expired)
            self._end(job, JobStatus.COMPLETED)
        else:
            self._count_failure(job, outcome, caller.node)

    def _count_failure(self, job: ModelJob, outcome: Outcome, node: str) -> None:
        job.failures += 1
        if job.failures < job.max_failures:
            if job.retry_backoff_ms:
                pause_ms = min(job.retry_backoff_ms * 2 ** (job.failures - 1), MAX_BACKOFF_MS)
                job.due = max(self.clock.now + pause_ms, job.due or 0)
            self._settle(job)
            self._emit(outcome.value, job, node)
            return
        if job.state:
            self._close(job, Outcome.SUPERSEDED, job.expired)
        self._end(job, JobStatus.FAILED)

    def _announce(self) -> None:
        if self._became_waiting:
            self.wakes.append(self._became_waiting)
        self._became_waiting = 0

    def _emit(self, kind: str, job: ModelJob, node: str | None = None) -> None:
        self.events.append(
            ModelEvent(kind, job.id, job.attempt, node or job.node, job.status.value, self.clock.now)
        )
        self.counters[kind] += 1
