"""What can be seen from outside a store, without a model: who was granted what, and who was believed.

Each method is called when the server has handled a message, in that order. What it sees must fit the promises
of the protocol at that moment; :meth:`Witness.verify` compares all of it with what the store says in the end.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kelpie.errors import NotFoundError
from kelpie.job import FAILURES, WEBHOOK_EVENTS, Holder, Job, JobStatus, Lease, Outcome
from kelpie.store import Event, EventType, Store

LEAVES_THE_LEASE = frozenset({EventType.HELD, EventType.RESUMED, EventType.UNBANNED, EventType.PRIORITIZED})
"""Events of a job that may be leased before and after."""


@dataclass
class Seen:
    """What was seen of one job."""

    job: Job
    grants: list[Lease] = field(default_factory=list)
    outcomes: dict[int, Outcome] = field(default_factory=dict)  # believed, by attempt
    failures: int = 0
    banned: list[str] = field(default_factory=list)
    ended: JobStatus | None = None
    ends: list[str] = field(default_factory=list)  # a requeued job has several
    all_failures: int = 0  # also those before a requeue
    on_hold: bool = False
    over: int = 0  # attempts that the job's end closed; a requeue does not open them again
    pauses: bool = True  # until not_before; a requeue ends it
    purged: bool = False

    @property
    def holder(self) -> Lease | None:
        """The one attempt that may be believed now, if any."""
        if self.ended or len(self.grants) == self.over or len(self.grants) in self.outcomes:
            return None
        return self.grants[-1]

    def count_failure(self) -> None:
        """A failure was believed."""
        self.failures += 1
        self.all_failures += 1
        assert self.failures <= self.job.spec.max_failures, "more failures than allowed"
        if self.failures == self.job.spec.max_failures:
            self.end(JobStatus.FAILED)

    def end(self, status: JobStatus) -> None:
        """The job has ended."""
        self.ended, self.on_hold, self.over = status, False, len(self.grants)
        self.ends.append(status.value)


class Witness:
    """Sees every message that the server handles."""

    def __init__(self) -> None:
        self.jobs: dict[str, Seen] = {}
        self.counts: Counter[str] = Counter()
        self._last_fence = 0

    def submitted(self, job: Job) -> None:
        """A job was acknowledged."""
        self.jobs[job.id] = Seen(job)
        self.counts["jobs"] += 1

    def granted(self, lease: Lease, now: int) -> None:
        """A node was given a lease, or the same again."""
        seen, node = self.jobs[lease.job.id], lease.job.machine_id
        assert not seen.ended, f"{lease.job.id} was granted although it is {seen.ended}"
        if seen.grants and seen.grants[-1].secret == lease.secret:
            assert seen.grants[-1].fence == lease.fence, "one request holds two attempts"
            assert seen.holder is not None, "a closed attempt was granted again"
            return
        assert lease.secret not in {grant.secret for grant in seen.grants}, (
            "one secret speaks for two attempts"
        )
        assert lease.job.attempt == len(seen.grants) + 1, "an attempt number was left out or used twice"
        assert lease.fence > self._last_fence, "a fencing token went back"
        assert not seen.on_hold, "a job on hold was granted"
        assert not seen.pauses or now >= (seen.job.spec.not_before or 0), "a job was granted before its time"
        assert node not in seen.banned, f"{node} was granted a job that bans it"
        self._last_fence = lease.fence
        seen.grants.append(lease)
        self.counts["leases"] += 1

    def heartbeat(self, lease: Lease, holder: Holder, reply: Any) -> None:
        """A heartbeat was answered."""
        seen = self.jobs[lease.job.id]
        if isinstance(reply, tuple):
            assert seen.purged, "a heartbeat of a job that exists was not found"
            return
        if reply.reason == "max_runtime":
            assert self._is_holder(seen, lease, holder), "somebody else's attempt was ended"
            seen.outcomes[seen.grants[-1].job.attempt] = Outcome.APP_FAILED
            seen.banned.append(seen.grants[-1].job.machine_id or "")
            seen.count_failure()
            self.counts["ran for too long"] += 1
        elif reply.status is JobStatus.CANCELED:
            self.counts["stale messages refused"] += 1
            assert not self._is_holder(seen, lease, holder), "the holder was told to stop"
        else:
            assert self._is_holder(seen, lease, holder), (
                "two holders: one that was superseded was told to go on"
            )

    def report(self, lease: Lease, holder: Holder, outcome: Outcome, reply: Any) -> None:
        """A report of a node was answered."""
        seen, attempt = self.jobs[lease.job.id], lease.job.attempt
        if isinstance(reply, tuple):
            self.counts["stale messages refused"] += 1
            assert not self._is_holder(seen, lease, holder), "the holder's report was refused"
            return
        current = self._is_holder(seen, lease, holder)
        if not current:  # believed before, or it changes nothing
            if self._reported_before(seen, lease, holder, outcome):
                return
            assert holder.may_report_unheld, (
                f"attempt {attempt} was believed although it does not hold the job"
            )
            assert lease.job.machine_id not in {g.job.machine_id for g in seen.grants}, (
                "an old node was believed"
            )
            return
        attempt = seen.grants[-1].job.attempt
        seen.outcomes[attempt] = outcome
        self.counts[str(outcome)] += 1
        if outcome is Outcome.COMPLETED:
            seen.end(JobStatus.COMPLETED)
        elif outcome in FAILURES:
            seen.banned.append(holder.node)
            seen.count_failure()
        assert reply.num_failures == seen.failures
        assert reply.status == (seen.ended or JobStatus.RUNNING)

    def reported_by_hand(self, job_id: str, outcome: Outcome, reply: Any) -> None:
        """A user's report was answered."""
        seen = self.jobs[job_id]
        if isinstance(reply, tuple) or seen.ended:
            return
        self.counts["reports by hand"] += 1
        if outcome is Outcome.COMPLETED:
            seen.end(JobStatus.COMPLETED)
        else:
            seen.count_failure()

    def canceled(self, job_id: str, reply: Any) -> None:
        """A cancel was answered."""
        seen = self.jobs[job_id]
        if isinstance(reply, tuple):
            assert seen.purged or seen.ended in (JobStatus.COMPLETED, JobStatus.FAILED)
        elif seen.ended is None:
            seen.end(JobStatus.CANCELED)
            self.counts["canceled"] += 1

    def held(self, job_id: str, reply: Any, *, on: bool) -> None:
        """A hold, or its end, was answered."""
        seen = self.jobs[job_id]
        assert (reply is not None) == bool(seen.ended), "only a live job can be held"
        if reply is None:
            seen.on_hold = on

    def requeued(self, job_id: str, reply: Any) -> None:
        """A requeue was answered."""
        seen = self.jobs[job_id]
        if isinstance(reply, tuple):
            assert seen.purged or seen.ended is JobStatus.COMPLETED
        elif seen.ended:
            seen.ended, seen.failures, seen.banned = None, 0, []
            seen.pauses = False
            self.counts["requeued"] += 1
        elif not seen.on_hold:
            seen.pauses = False

    def unbanned(self, job_id: str, reply: Any) -> None:
        """An unban of all nodes was answered."""
        seen = self.jobs[job_id]
        assert (reply is not None) == bool(seen.ended)
        if reply is None:
            seen.banned = []

    def purged(self, job_id: str) -> None:
        """A job was deleted."""
        seen = self.jobs[job_id]
        self.counts["purged"] += not seen.purged
        seen.purged = True
        seen.ended = seen.ended or JobStatus.CANCELED

    @staticmethod
    def _is_holder(seen: Seen, lease: Lease, holder: Holder) -> bool:
        """Whether the sender is the one that may be believed: by its lease, or an old one by its name."""
        current = seen.holder
        if current is None or seen.purged:
            return False
        if holder.lease is None:
            return current.job.machine_id == holder.node
        return current.secret == lease.secret

    @staticmethod
    def _reported_before(seen: Seen, lease: Lease, holder: Holder, outcome: Outcome) -> bool:
        """Whether the last attempt, which the sender made, has said just this already."""
        if not seen.grants:
            return False
        last = seen.grants[-1]
        same = last.job.machine_id == holder.node if holder.lease is None else last.secret == lease.secret
        return same and seen.outcomes.get(last.job.attempt) is outcome

    # The end

    def statuses(self, store: Store) -> dict[str, JobStatus]:
        """How the jobs that were not purged stand."""
        return {job_id: store.get(job_id).status for job_id, seen in self.jobs.items() if not seen.purged}

    def verify(self, store: Store, delivered: Sequence[tuple[str, str]]) -> None:
        """Compares everything with what the store says in the end. Raises AssertionError.

        ``delivered``: job and event of each webhook.
        """
        events = self._events(store)
        hooks = Counter(delivered)
        for job_id, seen in self.jobs.items():
            history = events.pop(job_id)
            self._verify_events(seen, history)
            asked_for = seen.job.spec.webhook_events or WEBHOOK_EVENTS
            wanted = Counter(
                (job_id, event.type.value)
                for event in history
                if event.type in asked_for and seen.job.spec.webhook is not None
            )
            found = Counter({key: count for key, count in hooks.items() if key[0] == job_id})
            if seen.purged:  # whoever deletes a job hears no more of it
                assert found <= wanted, "a webhook told of what did not happen"
            else:
                assert found == wanted, f"webhooks of {job_id}: {found}, not {wanted}"
            self._verify_job(store, job_id, seen)
        assert not events, "events of unknown jobs"

    def _verify_job(self, store: Store, job_id: str, seen: Seen) -> None:
        if seen.purged:
            try:
                store.get(job_id)
            except NotFoundError:
                return
            raise AssertionError("a purged job is still there")
        job = store.get(job_id)
        assert job.status == seen.ended
        assert job.num_failures == seen.failures
        assert list(job.banned_nodes) == seen.banned
        attempts = store.attempts(job_id)
        assert [a.attempt for a in attempts] == list(range(1, len(seen.grants) + 1))
        assert [a.node for a in attempts] == [grant.job.machine_id for grant in seen.grants]
        for attempt in attempts:
            assert attempt.end is not None
            assert attempt.start <= attempt.end
            believed = seen.outcomes.get(attempt.attempt)
            if believed is not None:
                assert attempt.outcome is believed
            else:
                assert attempt.outcome in (Outcome.INTERRUPTED, Outcome.CANCELED, Outcome.SUPERSEDED)
                self.counts[str(attempt.outcome)] += 1

    def _verify_events(self, seen: Seen, history: Sequence[Event]) -> None:
        kinds = Counter(event.type for event in history)
        assert history[0].type is EventType.SUBMITTED
        assert kinds[EventType.SUBMITTED] == 1
        assert [e.attempt for e in history if e.type is EventType.RUNNING] == [
            grant.job.attempt for grant in seen.grants
        ], "not one event per lease"
        failed = kinds[EventType.APP_FAILED] + kinds[EventType.SYNC_FAILED] + kinds[EventType.FAILED]
        assert failed == seen.all_failures, "not one event per failure"
        released = sum(outcome is Outcome.RELEASED for outcome in seen.outcomes.values())
        assert kinds[EventType.RELEASED] == released
        ends = [e.type.value for e in history if e.type.value in {"completed", "failed", "canceled"}]
        assert ends == seen.ends, f"ends {ends}, not {seen.ends}"
        assert kinds[EventType.PURGED] == seen.purged
        open_lease = False
        for event in history:  # leases of one job never overlap
            if event.type is EventType.RUNNING:
                assert not open_lease, "a job was leased while it was leased"
                open_lease = True
            elif event.type is EventType.REVIVED:
                assert not open_lease
                open_lease = True
            elif event.type not in LEAVES_THE_LEASE:
                open_lease = False

    @staticmethod
    def _events(store: Store) -> dict[str, list[Event]]:
        found: dict[str, list[Event]] = defaultdict(list)
        for queue in store.queues():
            after = "0-0"
            while page := store.events.read(queue, after, count=1000):
                for event in page:
                    found[event.job_id].append(event)
                after = page[-1].id
        return found
