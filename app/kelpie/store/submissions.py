"""How jobs enter the store: one or a thousand, all or none, and once however often they are sent."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from kelpie.errors import ConflictError, InvalidInputError, UnavailableError
from kelpie.job import MAX_BATCH, Job, JobSpec, JobStatus
from kelpie.store import codec, keys
from kelpie.store.codec import MAX_PRIORITY
from kelpie.store.connection import translated
from kelpie.store.ids import new_job_id
from kelpie.store.jobs import Jobs
from kelpie.store.names import checked, within
from kelpie.store.registry import Place
from kelpie.store.scripts import Argument

MAX_HEARTBEAT_INTERVAL_S = 2**31  # no job lives that long; keeps times exact in Lua
MAX_FAILURES = 2**31 - 1  # what scripts say that never give up
MAX_RUNTIME_S = 2**31
MAX_BACKOFF_S = 24 * 3600
MAX_TIME_MS = 2**52
KEEP_SUBMITTED_S = 24 * 3600
"""How long an idempotency key is remembered."""

_DEFAULTS = JobSpec(command="", container_group_id="")

Row = tuple[str | bytes | int, ...]


class Submissions(Jobs):
    """The entrance for jobs."""

    def submit(
        self, user_id: str, specs: Sequence[JobSpec], *, idempotency_key: str | None = None
    ) -> list[Job]:
        """Adds 1…1,000 jobs, all or none; they come back in the same order.

        With an ``idempotency_key`` the same jobs again, within a day, are the same jobs: they come back as
        they are then. Raises InvalidInputError (with the ``index`` of a bad job), and ConflictError when
        other jobs were submitted under the key.
        """
        if not 1 <= len(specs) <= MAX_BATCH:
            raise InvalidInputError(f"A batch has 1…{MAX_BATCH} jobs, not {len(specs)}.")
        encoded = [_encoded(index, spec) for index, spec in enumerate(specs)]
        if idempotency_key is not None:
            self._remember(user_id, idempotency_key, specs, encoded)
        groups = {spec.container_group_id: None for spec in specs}
        places = {group: self._registry.register(user_id, group) for group in groups}
        ids = [
            new_job_id(
                places[spec.container_group_id].queue.number,
                None if idempotency_key is None else _bits(user_id, idempotency_key, index),
            )
            for index, spec in enumerate(specs)
        ]
        rows: dict[str, list[Row]] = defaultdict(list)
        for job_id, spec, data in zip(ids, specs, encoded, strict=True):
            rows[spec.container_group_id].append((job_id, spec.priority, data, _options(spec)))
        created_ms = self._submit_rows(
            [(places[group], jobs) for group, jobs in rows.items()], repeatable=idempotency_key is not None
        )
        submitted = []
        for job_id, spec in zip(ids, specs, strict=True):
            created = created_ms[job_id]
            submitted.append(
                Job(
                    id=job_id,
                    user_id=user_id,
                    spec=spec,
                    status=JobStatus.PENDING,
                    created=created,
                    due=spec.not_before,
                )
                if created
                else self.get(job_id)
            )
        return submitted

    def _remember(self, user_id: str, key: str, specs: Sequence[JobSpec], encoded: Sequence[bytes]) -> None:
        """Binds the key to these jobs. Raises ConflictError when it is bound to others."""
        content = hashlib.sha256()
        for spec, data in zip(specs, encoded, strict=True):
            content.update(hashlib.sha256(spec.container_group_id.encode()).digest())
            content.update(hashlib.sha256(data).digest())
        digest = content.hexdigest()
        name = keys.submitted(user_id, hashlib.sha256(key.encode()).hexdigest())
        with translated():
            bound = self.redis.set(name, digest, nx=True, get=True, ex=KEEP_SUBMITTED_S)
        if bound not in (None, digest.encode()):
            raise ConflictError("Other jobs were submitted under this idempotency key; use a new one.")

    def _submit_rows(
        self, batches: Sequence[tuple[Place, Sequence[Row]]], *, repeatable: bool
    ) -> dict[str, int]:
        """When each job was created, in ms; 0 if it existed before."""
        if len(batches) == 1:
            place, rows = batches[0]
            answers = [self._run("submit", place, jobs=rows)]
        elif not self._scripts.can_run_together:
            answers = self._submit_in_turn(batches, repeatable=repeatable)
        else:
            calls: list[tuple[Sequence[str], dict[str, Argument]]] = [
                (place.meta, {"queue": place.queue.number, "jobs": rows}) for place, rows in batches
            ]
            answers = self._scripts.run_together("submit", calls)
        return {
            str(row[0]): int(created)
            for (_, rows), answer in zip(batches, answers, strict=True)
            for row, created in zip(rows, answer, strict=True)
        }

    def _submit_in_turn(
        self, batches: Sequence[tuple[Place, Sequence[Row]]], *, repeatable: bool
    ) -> list[Any]:
        """On a cluster no transaction spans several queues: what was added is taken back at a failure.

        A node may lease a job before that; it then hears that the job is gone. What is on a server that
        cannot be reached any more stays. A repeatable submit takes nothing back: its repeat adds the rest.
        """
        answers: list[Any] = []
        try:
            for place, rows in batches:
                answers.append(self._run("submit", place, jobs=rows))
        except BaseException:
            maybe_added = [] if repeatable else batches[: len(answers) + 1]
            for place, rows in maybe_added:
                with suppress(UnavailableError):
                    for row in rows:
                        self._run("purge", place, id=row[0])
            raise
        return answers


def _bits(user_id: str, key: str, index: int) -> int:
    """What a job's id is made of: the same submission derives the same ids."""
    digest = hashlib.sha256("\0".join(("kelpie job id", user_id, key, str(index))).encode()).digest()
    return int.from_bytes(digest[:12])


def _encoded(index: int, spec: JobSpec) -> bytes:
    """A definition as it is kept. Raises InvalidInputError with the job's index."""
    try:
        checked("container_group_id", spec.container_group_id)
        within("priority", spec.priority, 0, MAX_PRIORITY)
        within("max_failures", spec.max_failures, 1, MAX_FAILURES)
        within("heartbeat_interval", spec.heartbeat_interval, 1, MAX_HEARTBEAT_INTERVAL_S)
        within("retry_backoff_s", spec.retry_backoff_s, 0, MAX_BACKOFF_S)
        within("max_runtime_s", spec.max_runtime_s or 1, 1, MAX_RUNTIME_S)
        within("not_before", spec.not_before or 0, 0, MAX_TIME_MS)
        for name, value in spec.labels.items():
            checked("labels", f"{name}={value}")
        return codec.encode_spec(spec)
    except InvalidInputError as error:
        raise InvalidInputError(str(error), errors=error.errors, index=index) from None


def _options(spec: JobSpec) -> str:
    """What scripts must know of a definition, as submit.lua takes it; empty when all are defaults."""
    options: dict[str, Any] = {}
    if spec.max_failures != _DEFAULTS.max_failures:
        options["max_failures"] = spec.max_failures
    if spec.lease_ms != _DEFAULTS.lease_ms:
        options["lease_ms"] = spec.lease_ms
    if spec.not_before is not None:
        options["due"] = spec.not_before
    if spec.retry_backoff_s:
        options["retry_backoff_ms"] = 1000 * spec.retry_backoff_s
    if spec.max_runtime_s is not None:
        options["max_runtime_ms"] = 1000 * spec.max_runtime_s
    if spec.labels:
        options["labels"] = [f"{name}={value}" for name, value in spec.labels.items()]
    return json.dumps(options, separators=(",", ":"), ensure_ascii=False) if options else ""
