"""The client's part about jobs: submit, look, wait, change, end."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kelpie.client.specs import body, job_spec
from kelpie.client.transport import OUTAGE_S, PAGE_SIZE, Transport, segment
from kelpie.errors import InvalidInputError, UnavailableError
from kelpie.job import (
    MAX_BATCH,
    TERMINAL,
    Attempt,
    CommandEnd,
    JobSpec,
    JobStatus,
    Outcome,
    SyncEntry,
    from_iso,
)
from kelpie.progress import ProgressPoint
from kelpie.transfers import Transfers

MAX_PAGES = 100_000  # requests of one list: a search for text may look through many pages without a match


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the API describes it. Times are milliseconds since 1970, None when it has not happened."""

    id: str
    user_id: str
    spec: JobSpec
    status: JobStatus
    created: int
    started: int | None
    ended: int | None  # completed, failed or canceled
    heartbeat: int | None
    num_failures: int
    machine_id: str | None  # the node of the last attempt
    attempt: int  # the number of the last attempt; 0 before the first
    on_hold: bool  # kept from being leased until it is resumed
    banned_nodes: tuple[str, ...]  # that are not given the job any more
    waiting_for: str | None  # why a live job is not running now
    wire: Mapping[str, Any] = field(repr=False)  # the JSON object, whole

    @property
    def done(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.status in TERMINAL

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Job:
        """The job that a JSON object of the API describes."""
        ends = [from_iso(wire.get(name)) for name in ("completed", "failed", "canceled")]
        return cls(
            id=wire["id"],
            user_id=wire["user_id"],
            spec=JobSpec.from_wire(wire),
            status=JobStatus(wire["status"]),
            created=from_iso(wire["created"]) or 0,
            started=from_iso(wire.get("started")),
            ended=next((end for end in ends if end is not None), None),
            heartbeat=from_iso(wire.get("heartbeat")),
            num_failures=wire["num_failures"],
            machine_id=wire.get("machine_id"),
            attempt=wire.get("attempt") or 0,
            on_hold=bool(wire.get("on_hold")),
            banned_nodes=tuple(wire.get("banned_nodes") or ()),
            waiting_for=wire.get("waiting_for"),
            wire=dict(wire),
        )


class JobCalls(Transport):
    """Mixed into :class:`kelpie.Client`."""

    def submit(
        self,
        argv: Sequence[str],
        *,
        queue: str,
        before: Iterable[str | SyncEntry] = (),
        during: Iterable[str | SyncEntry] = (),
        after: Iterable[str | SyncEntry] = (),
        environment: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        **limits: Any,
    ) -> Job:
        """Queue one command. Sync entries are written ``s3://bucket/prefix:/folder`` or as SyncEntry.

        ``limits``: other fields of JobSpec, such as max_failures, heartbeat_interval (s), priority, labels,
        max_runtime_s, retry_backoff_s, not_before (ms since 1970 or a datetime with its offset).
        ``idempotency_key``: see :meth:`submit_job`.
        """
        return self.submit_job(
            job_spec(
                argv,
                queue=queue,
                before=before,
                during=during,
                after=after,
                environment=environment,
                **limits,
            ),
            idempotency_key=idempotency_key,
        )

    def submit_job(self, job: JobSpec | Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Queue one job, given as a definition or as the JSON object of the API.

        ``idempotency_key``: the same job under the same key, within a day, is the same job: give one to
        repeat a submit in another process. None: a new key, under which this call itself repeats what was
        not answered. ConflictError when another job was submitted under the key.
        """
        return Job.from_wire(self._submit("/jobs", body(job), idempotency_key))

    def submit_many(
        self, jobs: Iterable[JobSpec | Mapping[str, Any]], *, idempotency_key: str | None = None
    ) -> list[Job]:
        """Queue 1…1000 jobs, all or none; the answer is in the same order.

        ``idempotency_key``: of all of them together; see :meth:`submit_job`.
        """
        bodies = [body(job) for job in jobs]
        if not 1 <= len(bodies) <= MAX_BATCH:
            raise InvalidInputError(f"a batch has 1 to {MAX_BATCH} jobs, not {len(bodies)}")
        return [Job.from_wire(wire) for wire in self._submit("/jobs/batch", bodies, idempotency_key)]

    def _submit(self, path: str, body: Any, key: str | None) -> Any:
        return self._call("POST", path, body=body, repeatable=True, idempotency_key=key or uuid.uuid4().hex)

    def job(self, job_id: str) -> Job:
        """One job. NotFoundError when you have no such job."""
        return Job.from_wire(self._call("GET", job_path(job_id)))

    def jobs(
        self,
        *,
        status: JobStatus | None = None,
        queue: str | None = None,
        labels: Mapping[str, str] | None = None,
        node: str | None = None,
        text: str | None = None,
        limit: int = 100,
        ascending: bool = False,
    ) -> list[Job]:
        """Up to ``limit`` jobs that match everything given, the newest first unless ``ascending``.

        ``node``: jobs that it was given. ``text``: in the id, the command, its arguments, the queue or a
        label. What looks like a secret is masked in a list; :meth:`job` shows it.
        """
        size = max(1, min(limit, PAGE_SIZE))
        query: dict[str, Any] = {"status": status, "container_group_id": queue, "machine_id": node, "q": text}
        query["label"] = [f"{name}={value}" for name, value in (labels or {}).items()]
        query |= {"page_size": size, "asc": str(ascending).lower()}
        found: list[Job] = []
        for page in range(2, MAX_PAGES + 2):
            answer = self._call("GET", "/jobs", query=query)
            part = answer["jobs"]
            if "next_cursor" in answer:
                ended = answer["next_cursor"] in (None, query.get("cursor"))
                query["cursor"] = answer["next_cursor"]
            elif labels or node or text:
                raise InvalidInputError(
                    "the API is too old to list jobs by label, node or text; it lists all"
                )
            else:  # an older API, whose pages are numbered
                ended = len(part) < size
                query["page"] = page
            found += map(Job.from_wire, part)
            if ended or len(found) >= limit:
                break
        return found[:limit]

    def attempts(self, job_id: str) -> list[Attempt]:
        """Every attempt at the job, oldest first; the open one, if any, last."""
        wire = self._call("GET", job_path(job_id), query={"expand": "attempts"})
        return [_attempt(one) for one in wire.get("attempts") or ()]

    def transfers(self, job_id: str) -> Transfers | None:
        """What was moved for each entry of the job's sync; None when no node has told it."""
        wire = self._call("GET", job_path(job_id), query={"expand": "transfers"}).get("transfers")
        return None if wire is None else Transfers.from_wire(wire)

    def progress_history(self, job_id: str) -> list[ProgressPoint]:
        """How the job's progress was over time, oldest first, what its command said last at the end."""
        wire = self._call("GET", job_path(job_id), query={"expand": "progress_history"})
        return [ProgressPoint.from_wire(one) for one in wire.get("progress_history") or ()]

    def wait(
        self,
        job_id: str,
        timeout_s: float | None = None,
        *,
        poll_s: float = 1.0,
        seen: Callable[[Job], object] = lambda _: None,
    ) -> Job:
        """Wait until the job has ended, whatever its end. TimeoutError after ``timeout_s`` seconds.

        ``seen`` is called with the job each time that it was looked at and has not ended. An outage of up to
        OUTAGE_S is waited out, then UnavailableError is raised.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        answered = time.monotonic()
        said = "of unknown status"
        while True:
            try:
                job = self.job(job_id)
            except UnavailableError:
                if time.monotonic() - answered > OUTAGE_S:
                    raise
            else:
                if job.done:
                    return job
                answered = time.monotonic()
                said = f"{job.status} ({job.waiting_for})" if job.waiting_for else job.status
                seen(job)
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"job {job_id} is still {said} after {timeout_s:g} s")
            time.sleep(poll_s)

    def cancel(self, job_id: str) -> None:
        """End the job; harmless when repeated. ConflictError when it has completed or failed."""
        self._call("DELETE", job_path(job_id))

    def hold(self, job_id: str) -> Job:
        """Keep a live job from being leased until it is resumed; a node that runs it goes on.

        ConflictError when it has ended.
        """
        return self._change(job_id, "hold")

    def resume(self, job_id: str) -> Job:
        """Let a held job be leased again. ConflictError when it has ended."""
        return self._change(job_id, "resume")

    def requeue(self, job_id: str) -> Job:
        """Open a failed or canceled job again, without its failures and bans; end a delayed one's pause.

        ConflictError when it has completed.
        """
        return self._change(job_id, "requeue")

    def unban(self, job_id: str, node: str | None = None) -> Job:
        """Let a node (None: every node) have a job again on which it failed.

        ConflictError when it has ended.
        """
        return self._change(job_id, "unban", {} if node is None else {"machine_id": node})

    def prioritize(self, job_id: str, priority: int) -> Job:
        """Give a live job another priority, 0 to 255, higher first; a node that runs it goes on.

        ConflictError when it has ended.
        """
        return self._change(job_id, "prioritize", {"priority": priority})

    def _change(self, job_id: str, change: str, body: Any = None) -> Job:
        # To do it twice changes nothing more.
        return Job.from_wire(self._call("POST", f"{job_path(job_id)}/{change}", body=body, repeatable=True))

    def purge(self, job_id: str) -> None:
        """Delete the job and its records for good."""
        self._call("DELETE", job_path(job_id), query={"purge": "true"}, gone_is_done=True)

    def clear_group(self, queue: str) -> int:
        """Remove the pending jobs of a queue and cancel its running ones; how many they were."""
        answer = self._call("DELETE", f"/jobs/container-groups/{segment(queue)}")
        return int(answer["count"])


def job_path(job_id: str) -> str:
    """Where the API has the job."""
    return f"/jobs/{segment(job_id)}"


def _attempt(wire: Mapping[str, Any]) -> Attempt:
    outcome = wire.get("outcome")
    return Attempt(
        attempt=wire["attempt"],
        node=wire["machine_id"],
        start=from_iso(wire["start"]) or 0,
        end=from_iso(wire.get("end")),
        outcome=None if outcome is None else Outcome(outcome),
        exit_code=wire.get("exit_code"),
        reason=wire.get("reason"),
        last_heartbeat=from_iso(wire.get("last_heartbeat")),
        command_end=CommandEnd(
            wire.get("signal"), bool(wire.get("out_of_memory")), wire.get("stderr_tail") or None
        ),
    )
