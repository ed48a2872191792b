"""Jobs over HTTP: the API's work routes, spoken with urllib3 and nothing else."""

from __future__ import annotations

import json
import queue as stdqueue
import threading
import uuid
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

import urllib3

from kelpie.errors import (
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    LeaseLostError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from kelpie.job import (
    MAX_STDERR_CHARS,
    NOTHING_KNOWN,
    REALLOCATE_AT_BANS,
    CommandEnd,
    FinishReply,
    HeartbeatReply,
    JobStatus,
    LogBatch,
    Outcome,
    UploadBacklog,
    from_iso,
)
from kelpie.progress import ProgressReport
from kelpie.transfers import TransferReport
from kelpie_worker.leased import LeasedJob
from kelpie_worker.queue import MAX_REASON_LENGTH, UnknownCallError
from kelpie_worker.settings import MAX_POLL_WAIT_S, Settings

_MAX_ANSWER_BYTES = 32 << 20
_CONNECT_TIMEOUT_S = 10.0
_ANSWER_TIMEOUT_S = 15.0
_LAST_POLL_TIMEOUT_S = 3.0
_CONNECTIONS = 16

Json = dict[str, Any]


class HttpQueue:
    """The :class:`~kelpie_worker.queue.JobQueue` of one container group behind a Kelpie API."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._node = {"machine_id": settings.machine_id, "container_group_id": settings.container_group_id}
        self._headers = {"Accept": "application/json", "User-Agent": "kelpie-worker"} | _credentials(settings)
        # Once more on a connection that broke: a server closes idle ones at will, and every call is
        # idempotent. Redirects are not followed: they would carry the key to another address.
        once_more = urllib3.Retry(
            total=None, connect=0, read=1, redirect=0, status=0, other=0, allowed_methods=None
        )
        self._http = urllib3.PoolManager(maxsize=_CONNECTIONS, retries=once_more)
        self._request_id: str | None = None
        self._stopping = threading.Event()
        self._answers: stdqueue.SimpleQueue[Json | list[Any] | Exception | None] = stdqueue.SimpleQueue()
        self._failed_here: set[str] = set()

    def lease(self, wait_s: float) -> LeasedJob | None:
        """See JobQueue. The request id stays the same until a poll is answered."""
        if self._request_id is None:
            self._request_id = uuid.uuid4().hex
        wait_s = 0 if self._stopping.is_set() else min(wait_s, MAX_POLL_WAIT_S)
        answer = self._poll(self._request_id, wait_s) if wait_s else None
        if answer is None:  # stopping: ask once more, so that a job given to the open poll is not left alone
            answer = self._get_work(self._request_id, 0, _LAST_POLL_TIMEOUT_S)
        self._request_id = None
        if not answer:
            return None
        try:
            return LeasedJob.from_wire(answer[0], self._settings)  # type: ignore[index]  # KeyError: an object
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UnavailableError(f"GET /work answered with something that is no job: {error!r}") from error

    def heartbeat(
        self,
        job: LeasedJob,
        backlog: UploadBacklog | None = None,
        progress: ProgressReport | None = None,
        transfers: TransferReport | None = None,
    ) -> HeartbeatReply:
        """See JobQueue."""
        # Tried twice (see above): a silent one must leave room for others before the lease ends.
        timeout_s = min(_ANSWER_TIMEOUT_S, max(0.5, job.heartbeat_interval / 3))
        body: Json = {} if backlog is None else {"upload_backlog": backlog.to_wire()}
        if progress is not None:
            body["progress"] = progress.to_wire()
        if transfers is not None:
            body["transfers"] = transfers.to_wire()
        answer = self._report(job, "heartbeat", body, timeout_s=timeout_s)
        try:
            return HeartbeatReply(
                status=JobStatus(answer["status"]),
                reason=answer.get("reason"),
                lease_expires=from_iso(answer.get("lease_expires")),
                drain=answer.get("drain") is True,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UnavailableError(f"a heartbeat was answered with {error!r}") from error

    def completed(self, job: LeasedJob) -> FinishReply:
        """See JobQueue."""
        return _finish_reply(self._report(job, "completed", {}), JobStatus.COMPLETED, 0)

    def failed(
        self,
        job: LeasedJob,
        outcome: Outcome,
        exit_code: int | None,
        reason: str | None,
        end: CommandEnd = NOTHING_KNOWN,
    ) -> FinishReply:
        """See JobQueue."""
        body: Json = {"outcome": outcome.value}
        if exit_code is not None:
            body["exit_code"] = exit_code
        if reason is not None:
            body["reason"] = reason[:MAX_REASON_LENGTH]
        if end.signal is not None:
            body["signal"] = end.signal
        if end.out_of_memory:
            body["out_of_memory"] = True
        if end.stderr_tail:
            body["stderr_tail"] = end.stderr_tail[-MAX_STDERR_CHARS:]
        answer = self._report(job, "failed", body)
        self._failed_here.add(job.id)
        # a server of Kelpie 0.5 to 0.7 does not tell: then this worker's own count is the best there is
        return _finish_reply(answer, JobStatus.RUNNING, len(self._failed_here))

    def released(self, job: LeasedJob) -> FinishReply:
        """See JobQueue."""
        return _finish_reply(self._report(job, "released", {}), JobStatus.RUNNING, 0)

    def log(self, job: LeasedJob, batch: LogBatch) -> None:
        """See JobQueue."""
        lines = [{"stream": line.stream.value, "time": line.time, "text": line.text} for line in batch.lines]
        self._report(job, "logs", {"first": batch.first, "lines": lines})

    def stop_leasing(self) -> None:
        """See JobQueue."""
        self._stopping.set()
        self._answers.put(None)

    def close(self) -> None:
        """See JobQueue."""
        self._http.clear()

    def _poll(self, request_id: str, wait_s: float) -> Json | list[Any] | None:
        """A long poll that :meth:`stop_leasing` can end: None then. The open one dies with the process."""

        def ask() -> None:
            try:
                self._answers.put(self._get_work(request_id, wait_s, wait_s + _ANSWER_TIMEOUT_S))
            except Exception as error:  # noqa: BLE001  (whatever it is, it belongs to the caller)
                self._answers.put(error)

        threading.Thread(target=ask, name="poll", daemon=True).start()
        answer = self._answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _get_work(self, request_id: str, wait_s: float, timeout_s: float) -> Json | list[Any]:
        query = urlencode(self._node | {"wait": f"{wait_s:g}"})
        return self._call(
            "GET",
            f"/work?{query}",
            headers={"Idempotency-Key": request_id},
            timeout_s=timeout_s,
        )

    def _report(self, job: LeasedJob, what: str, body: Json, timeout_s: float = _ANSWER_TIMEOUT_S) -> Json:
        body = self._node | body
        if job.lease is not None:
            body["lease"] = job.lease
        answer = self._call("POST", f"/jobs/{quote(job.id, safe='')}/{what}", body=body, timeout_s=timeout_s)
        if not isinstance(answer, dict):
            raise UnavailableError(f"POST {what} was not answered with a JSON object")
        return answer

    def _call(
        self,
        method: str,
        path: str,
        *,
        body: Json | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float,
    ) -> Json | list[Any]:
        what = f"{method} {path.partition('?')[0]}"
        try:
            response = self._http.request(
                method,
                self._settings.api_url + path,
                body=None if body is None else json.dumps(body),
                headers={
                    **self._headers,
                    **_identity(self._settings),
                    "Content-Type": "application/json",
                    **(headers or {}),
                },
                timeout=urllib3.Timeout(connect=min(_CONNECT_TIMEOUT_S, timeout_s), read=timeout_s),
                preload_content=False,
            )
            data = response.read(_MAX_ANSWER_BYTES + 1, decode_content=True)
            if len(data) <= _MAX_ANSWER_BYTES:
                response.release_conn()  # read to its end: good for the next call
            else:
                response.close()
        except urllib3.exceptions.HTTPError as error:
            raise UnavailableError(f"{what}: the API cannot be reached: {_brief(error)}") from error
        answer: Any = None
        if len(data) <= _MAX_ANSWER_BYTES:
            try:
                answer = json.loads(data)
            except ValueError:
                answer = None
        if response.status < 300 and isinstance(answer, dict | list):
            return answer
        raise _refusal(what, response.status, answer)


def _credentials(settings: Settings) -> dict[str, str]:
    if settings.api_key or not settings.salad_api_key:
        return {"X-Kelpie-Key": settings.api_key} if settings.api_key else {}
    return {
        "Salad-Api-Key": settings.salad_api_key,
        "Salad-Organization": settings.salad_organization,
        "Salad-Project": settings.salad_project,
    }


def _identity(settings: Settings) -> dict[str, str]:
    """The node's own token, as it is now: whoever issues it renews it in its file."""
    if settings.token_file is None or settings.api_key or settings.salad_api_key:
        return {}
    try:
        token = settings.token_file.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise UnavailableError(
            f"{settings.token_file} (KELPIE_TOKEN_FILE) cannot be read: {type(error).__name__}"
        ) from error
    return {"Authorization": f"Bearer {token}", "Salad-Project": settings.salad_project or "default"}


def _finish_reply(answer: Json, status: JobStatus, own_bans: int) -> FinishReply:
    try:
        bans = answer.get("node_bans")
        if bans is None:
            bans = REALLOCATE_AT_BANS if answer.get("reallocate") else own_bans
        return FinishReply(
            status=JobStatus(answer.get("status") or status),
            num_failures=int(answer.get("num_failures") or 0),
            node_bans=int(bans),
        )
    except (TypeError, ValueError):  # it was answered with success: odd details do not undo that
        return FinishReply(status=status, num_failures=0, node_bans=own_bans)


_UNDERSTOOD: Final = frozenset({400, 404, 409, 413})


def _refusal(what: str, status: int, answer: Any) -> Exception:
    """The exception for an answer that is no success."""
    told = answer if isinstance(answer, dict) and isinstance(answer.get("error"), str) else None
    text = f"{what}: HTTP {status}"
    if told is not None:
        text += f": {told['error']}: {str(told.get('message', ''))[:500]}"
    if status == 401:
        return UnauthenticatedError(text + " (set KELPIE_API_KEY)")
    if status == 403:
        return ForbiddenError(text + " (is KELPIE_API_KEY a key of this API?)")
    # A proxy on the way answers 404 too, and so does a wrong KELPIE_API_URL: only the API itself can say that
    # a job is gone, or a week's work would be thrown away for a slip in a router.
    if told is None or status not in _UNDERSTOOD or told["error"] == "Route Not Found":
        return UnknownCallError(text) if status == 404 else UnavailableError(text)
    if status == 404:
        return NotFoundError(text)
    if status == 409:
        reason = told.get("reason")
        if isinstance(reason, str) and reason:
            return LeaseLostError(text, reason=reason)
        return LeaseLostError(text, reason="not_holder") if "/jobs/" in what else ConflictError(text)
    return InvalidInputError(text)


def _brief(error: Exception) -> str:
    # urllib3 puts the object's address and the whole URL in its texts
    reason = getattr(error, "reason", None)
    return f"{type(error).__name__}: {reason or error}"[:300]
