"""The Python client of the API. Needs the bare install only.

>>> from kelpie import Client
>>> with Client() as client:  # KELPIE_API_URL and KELPIE_API_KEY
...     job = client.submit(["python", "sim.py"], queue="sims", during=["/ckpt:s3://bucket/ckpt"])
...     print(client.wait(job.id).status)
"""

from __future__ import annotations

import json
import os
import random
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

import urllib3

from kelpie.client_scaling import ScalingCalls
from kelpie.errors import (
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    KelpieError,
    LeaseLostError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from kelpie.event_stream import Event, Feed
from kelpie.job import (
    MAX_BATCH,
    TERMINAL,
    Attempt,
    Direction,
    JobSpec,
    JobStatus,
    Outcome,
    Sync,
    SyncEntry,
    from_iso,
)

DEFAULT_URL = "http://127.0.0.1:8080"
PAGE_SIZE = 500  # jobs or users per request of a list
MAX_USER_PAGES = 1000
MAX_PAGES = 100_000  # requests of one list: a search for text may look through many pages without a match

OUTAGE_S = 600.0
"""How long `Client.wait` bears an API that cannot be reached, in seconds."""
_CONNECT_TIMEOUT_S = 5.0
_TRIES = 5
_BACKOFF_S = (0.1, 5.0)  # the first pause and the longest one
_RETRY_STATUS = frozenset({502, 503, 504})
_MAX_RETRY_AFTER_S = 30.0

_ERRORS: Mapping[int, type[KelpieError]] = {
    401: UnauthenticatedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
}


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


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who owns jobs."""

    id: str
    username: str
    wire: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> User:
        """The user that a JSON object of the API describes."""
        return cls(id=wire["id"], username=wire["username"], wire=dict(wire))


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of an API key. ``scopes`` None: a full key, which may do all that its user may."""

    id: str
    prefix: str | None  # how the key begins
    name: str | None
    scopes: tuple[str, ...] | None
    created: int  # ms since 1970 UTC, as every time here
    expires: int | None
    last_used: int | None  # up to a minute late
    wire: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Key:
        """The key that a JSON object of the API describes; the key itself, if that is shown, is left out."""
        scopes = wire.get("scopes")
        return cls(
            id=wire["id"],
            prefix=wire.get("prefix"),
            name=wire.get("name"),
            scopes=None if scopes is None else tuple(scopes),
            created=from_iso(wire["created"]) or 0,
            expires=from_iso(wire.get("expires")),
            last_used=from_iso(wire.get("last_used")),
            wire={name: value for name, value in wire.items() if name != "token"},
        )


class Client(ScalingCalls):
    """One connection pool to one API with one key. Thread-safe; close it, or use it as a context manager.

    Every method raises :class:`kelpie.errors.KelpieError` of the fitting class. What can be repeated without
    harm is, for some seconds; UnavailableError says that the API could not be reached even so.
    """

    def __init__(self, url: str | None = None, key: str | None = None, *, timeout_s: float = 30.0) -> None:
        """``url`` and ``key`` None: KELPIE_API_URL and KELPIE_API_KEY. ``timeout_s`` is for one answer."""
        self.url = (url or os.environ.get("KELPIE_API_URL") or DEFAULT_URL).rstrip("/")
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise InvalidInputError(
                f"KELPIE_API_URL must be an http:// or https:// address, not {_without_password(self.url)!r}"
            )
        headers = {"Accept": "application/json", "User-Agent": "kelpie-client"}
        key = key or os.environ.get("KELPIE_API_KEY")
        if key:
            if not key.isascii() or not key.isprintable():
                raise InvalidInputError("KELPIE_API_KEY holds a character that no key has")
            headers["X-Kelpie-Key"] = key
        self._pool = urllib3.PoolManager(
            headers=headers,
            timeout=urllib3.Timeout(connect=_CONNECT_TIMEOUT_S, read=timeout_s),
            retries=False,  # ours are in _call: they know what may be repeated
        )

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
        return Job.from_wire(self._submit("/jobs", _body(job), idempotency_key))

    def submit_many(
        self, jobs: Iterable[JobSpec | Mapping[str, Any]], *, idempotency_key: str | None = None
    ) -> list[Job]:
        """Queue 1…1000 jobs, all or none; the answer is in the same order.

        ``idempotency_key``: of all of them together; see :meth:`submit_job`.
        """
        bodies = [_body(job) for job in jobs]
        if not 1 <= len(bodies) <= MAX_BATCH:
            raise InvalidInputError(f"a batch has 1 to {MAX_BATCH} jobs, not {len(bodies)}")
        return [Job.from_wire(wire) for wire in self._submit("/jobs/batch", bodies, idempotency_key)]

    def _submit(self, path: str, body: Any, key: str | None) -> Any:
        return self._call("POST", path, body=body, repeatable=True, idempotency_key=key or uuid.uuid4().hex)

    def job(self, job_id: str) -> Job:
        """One job. NotFoundError when you have no such job."""
        return Job.from_wire(self._call("GET", _job_path(job_id)))

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
        wire = self._call("GET", _job_path(job_id), query={"expand": "attempts"})
        return [_attempt(one) for one in wire.get("attempts") or ()]

    def wait(self, job_id: str, timeout_s: float | None = None, *, poll_s: float = 1.0) -> Job:
        """Wait until the job has ended, whatever its end. TimeoutError after ``timeout_s`` seconds.

        An outage of up to OUTAGE_S is waited out, then UnavailableError is raised.
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
                answered, said = time.monotonic(), job.status
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"job {job_id} is still {said} after {timeout_s:g} s")
            time.sleep(poll_s)

    def cancel(self, job_id: str) -> None:
        """End the job; harmless when repeated. ConflictError when it has completed or failed."""
        self._call("DELETE", _job_path(job_id))

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

    def _change(self, job_id: str, change: str, body: Any = None) -> Job:
        # To do it twice changes nothing more.
        return Job.from_wire(self._call("POST", f"{_job_path(job_id)}/{change}", body=body, repeatable=True))

    def purge(self, job_id: str) -> None:
        """Delete the job and its records for good."""
        self._call("DELETE", _job_path(job_id), query={"purge": "true"}, gone_is_done=True)

    def clear_group(self, queue: str) -> int:
        """Remove the pending jobs of a queue and cancel its running ones; how many they were."""
        answer = self._call("DELETE", f"/jobs/container-groups/{quote(queue, safe='')}")
        return int(answer["count"])

    def me(self) -> User:
        """Whose key this is."""
        return User.from_wire(self._call("GET", "/users/me"))

    def create_user(self, username: str) -> User:
        """A new user (admin only). InvalidInputError when the name is taken."""
        return User.from_wire(self._call("POST", "/users", body={"username": username}))

    def users(self) -> list[User]:
        """All users by name (admin only)."""
        found: list[User] = []
        for page in range(1, MAX_USER_PAGES + 1):
            part = self._call("GET", "/users", query={"page": page, "page_size": PAGE_SIZE})["users"]
            found += map(User.from_wire, part)
            if len(part) < PAGE_SIZE:
                break
        return found

    def delete_user(self, user_id: str) -> None:
        """Delete a user and his keys; his jobs stay (admin only)."""
        self._call("DELETE", f"/users/{quote(user_id, safe='')}", gone_is_done=True)

    def create_key(
        self,
        user_id: str,
        organization: str = "default",
        project: str = "default",
        *,
        scopes: Sequence[str] | None = None,
        name: str | None = None,
        expires_in_s: int | None = None,
    ) -> str:
        """A new API key for a user (admin only). It is shown this once.

        ``scopes``: what it may do, of ``submit``, ``work`` and (for the admin's own keys) ``admin``; None:
        all that its user may.
        """
        body = {"org_name": organization, "project_name": project} | _reach(scopes, name, expires_in_s)
        return str(self._call("POST", f"/users/{quote(user_id, safe='')}/token", body=body)["token"])

    def create_own_key(
        self, *, scopes: Sequence[str] | None = None, name: str | None = None, expires_in_s: int | None = None
    ) -> tuple[str, Key]:
        """Another API key of your own, shown this once, and what is known of it. Needs a full key."""
        wire = self._call("POST", "/users/me/keys", body=_reach(scopes, name, expires_in_s))
        return str(wire["token"]), Key.from_wire(wire)

    def keys(self, user_id: str | None = None) -> list[Key]:
        """Your API keys, or those of a user (admin only), oldest first; never a key itself."""
        return [Key.from_wire(wire) for wire in self._call("GET", _keys_path(user_id))["keys"]]

    def revoke_key(self, key_id: str, user_id: str | None = None) -> None:
        """End an API key of yours, or of a user (admin only), at once. NotFoundError when there is none."""
        self._call("DELETE", f"{_keys_path(user_id)}/{quote(key_id, safe='')}", gone_is_done=True)

    def events(
        self, job_id: str | None = None, *, after: str | None = None, follow: bool = True
    ) -> Iterator[Event]:
        """What happens to your jobs (or to one), oldest first; each event once, as far as the API can tell.

        Begins after the event of the id ``after`` ("0": the oldest that is kept). Without it: with ``follow``
        at this moment, else at the oldest; of one job always at its beginning. With ``follow`` it goes on for
        ever, through lost connections; UnavailableError when the API is away for longer than OUTAGE_S. An
        event of the type ``gap`` says that some may be missing.
        """
        path = "/events" if job_id is None else f"{_job_path(job_id)}/events"
        if follow:
            yield from Feed(self._open, path, after, outage_s=OUTAGE_S)
            return
        while True:
            page = self._call("GET", path, query={"after": after, "page_size": PAGE_SIZE})
            if page["gap"]:
                yield Event.gap()
            yield from map(Event.from_wire, page["events"])
            if page["_count"] < PAGE_SIZE:
                return
            after = page["next"]

    def deliveries(
        self, *, job_id: str | None = None, status: str | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Up to ``limit`` webhook deliveries of your jobs, the newest first, as the API describes them."""
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while len(found) < limit:
            query = {"job_id": job_id, "status": status, "page_size": min(limit, PAGE_SIZE), "cursor": cursor}
            page = self._call("GET", "/webhooks/deliveries", query=query)
            found += page["deliveries"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        return found[:limit]

    def delivery(self, delivery_id: str) -> dict[str, Any]:
        """One webhook delivery and every try of it. NotFoundError when you have no such delivery."""
        return dict(self._call("GET", _delivery_path(delivery_id)))

    def replay(self, delivery_id: str) -> dict[str, Any]:
        """Deliver a webhook again, with the same webhook-id."""
        return dict(self._call("POST", f"{_delivery_path(delivery_id)}/replay"))

    def rotate_webhook_secret(self) -> str:
        """A new secret that signs your webhooks; for a day the old one signs beside it."""
        return str(self._call("POST", "/users/me/webhook-secret/rotate")["webhook_secret"])

    def _open(self, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> Any:
        """An answer that is read as it comes. Raises urllib3's errors, and ours for a refusal."""
        answer = self._pool.request(
            "GET",
            f"{self.url}{path}" + (f"?{urlencode(query)}" if query else ""),
            headers={**self._pool.headers, **headers},
            preload_content=False,
            redirect=False,
        )
        if answer.status != 200:
            _decoded(answer.status, answer.data)
            raise UnavailableError(f"the API answered an event stream with status {answer.status}")
        return answer

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        gone_is_done: bool = False,
        repeatable: bool = False,
        idempotency_key: str | None = None,
    ) -> Any:
        """One request, repeated while that is harmless; the decoded answer.

        Any is repeated when the server surely did nothing: it could not be connected to, or was too busy
        (429). After a lost answer or a 503 it may have been carried out all the same: then a POST is repeated
        only if it is ``repeatable``: it changes nothing more the second time, or carries an
        ``idempotency_key`` by which the server knows it again.
        ``gone_is_done``: a 404 to a repeated request means that the first one was carried out.
        """
        query = {name: value for name, value in (query or {}).items() if value not in (None, [])}
        url = f"{self.url}{path}" + (f"?{urlencode(query, doseq=True)}" if query else "")
        repeatable = repeatable or method != "POST"
        headers: dict[str, str] = dict(self._pool.headers)
        if body is not None:
            headers["Content-Type"] = "application/json"
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        lost_reply = False
        for attempt in range(1, _TRIES + 1):
            pause_s = _backoff_s(attempt)
            try:
                answer = self._pool.request(
                    method,
                    url,
                    body=None if body is None else json.dumps(body).encode(),
                    headers=headers,
                    redirect=False,  # the key goes to no other address
                )
            except urllib3.exceptions.HTTPError as error:
                unreached = isinstance(
                    error, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError
                )
                lost_reply = lost_reply or not unreached
                if attempt == _TRIES or not (unreached or repeatable):
                    raise UnavailableError(
                        f"the API at {_without_password(self.url)} cannot be reached "
                        f"({type(error).__name__}); is it running, and is KELPIE_API_URL right?"
                    ) from error
            else:
                if gone_is_done and lost_reply and answer.status == 404:
                    return None
                again = answer.status == 429 or (answer.status in _RETRY_STATUS and repeatable)
                if not again or attempt == _TRIES:
                    return _decoded(answer.status, answer.data)
                pause_s = max(pause_s, _retry_after_s(answer.headers.get("Retry-After")))
            time.sleep(pause_s)
        raise AssertionError("the last try returns or raises")


def job_spec(
    argv: Sequence[str],
    *,
    queue: str,
    before: Iterable[str | SyncEntry] = (),
    during: Iterable[str | SyncEntry] = (),
    after: Iterable[str | SyncEntry] = (),
    environment: Mapping[str, str] | None = None,
    not_before: int | datetime | None = None,
    **limits: Any,
) -> JobSpec:
    """The definition of a job that runs ``argv``. InvalidInputError names what is wrong."""
    if not argv:
        raise InvalidInputError("a job needs a command")
    if isinstance(not_before, datetime):
        if not_before.tzinfo is None:
            raise InvalidInputError(f"not_before is {not_before}, without its offset from UTC")
        not_before = round(not_before.timestamp() * 1000)
    down, up = Direction.DOWNLOAD, Direction.UPLOAD
    try:
        return JobSpec(
            command=argv[0],
            arguments=tuple(argv[1:]),
            container_group_id=queue,
            environment=dict(environment or {}),
            sync=Sync(
                before=tuple(sync_entry(entry, down) for entry in before),
                during=tuple(sync_entry(entry, up) for entry in during),
                after=tuple(sync_entry(entry, up) for entry in after),
            ),
            not_before=not_before,
            **limits,
        )
    except TypeError as error:
        raise InvalidInputError(f"not a field of a job: {error}") from error


def sync_entry(text: str | SyncEntry, direction: Direction) -> SyncEntry:
    """The entry that ``s3://bucket/prefix:/folder`` or ``/folder:s3://bucket/prefix`` describes.

    Either order is understood whatever the direction. InvalidInputError says what is wrong.
    """
    if isinstance(text, SyncEntry):
        return text
    shape = "s3://bucket/prefix:/folder" if direction is Direction.DOWNLOAD else "/folder:s3://bucket/prefix"
    wrong = f"{text!r} is not a sync entry; write {shape}"
    if text.startswith("s3://"):
        location, colon, folder = text.removeprefix("s3://").rpartition(":")
    else:
        folder, colon, location = text.partition(":s3://")
    if not colon or not folder or text.count("s3://") > 1:
        raise InvalidInputError(wrong)
    bucket, _, prefix = location.partition("/")
    if not bucket or prefix.startswith("/"):
        raise InvalidInputError(
            f"{wrong}: the bucket is empty" if not bucket else f"{wrong}: '//' in the prefix"
        )
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    return SyncEntry(bucket=bucket, prefix=prefix, local_path=folder, direction=direction)


def _body(job: JobSpec | Mapping[str, Any]) -> dict[str, Any]:
    """What is sent: without what has its default, of which an older API may not know."""
    if not isinstance(job, JobSpec):
        return dict(job)
    wire = job.to_wire()
    defaults = JobSpec(command="", container_group_id="").to_wire()
    return {name: value for name, value in wire.items() if name not in defaults or value != defaults[name]}


def _job_path(job_id: str) -> str:
    return f"/jobs/{quote(job_id, safe='')}"


def _delivery_path(delivery_id: str) -> str:
    return f"/webhooks/deliveries/{quote(delivery_id, safe='')}"


def _keys_path(user_id: str | None) -> str:
    return f"/users/{quote(user_id or 'me', safe='')}/keys"


def _reach(scopes: Sequence[str] | None, name: str | None, expires_in_s: int | None) -> dict[str, Any]:
    """How far a new key reaches, without what is left to the API."""
    reach = {
        "scopes": None if scopes is None else list(scopes),
        "name": name,
        "expires_in_s": expires_in_s,
    }
    return {field: value for field, value in reach.items() if value is not None}


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
    )


def _backoff_s(attempt: int) -> float:
    first, longest = _BACKOFF_S
    jitter = random.uniform(0.5, 1.0)  # noqa: S311 -- it is no secret
    return jitter * min(longest, first * 2.0 ** (attempt - 1))


def _retry_after_s(header: str | None) -> float:
    """How long the server asks to wait, in seconds, within reason; 0 when it does not say."""
    try:
        return min(_MAX_RETRY_AFTER_S, max(0.0, float(header or 0)))
    except ValueError:
        return 0.0


def _decoded(status: int, data: bytes) -> Any:
    """The JSON of a good answer; the fitting error of any other."""
    try:
        wire = json.loads(data) if data else None
    except ValueError:
        wire = None
        if status < 300:
            raise UnavailableError(
                f"the answer (status {status}) is not JSON; is KELPIE_API_URL the address of a Kelpie API?"
            ) from None
    if status < 300:
        return wire
    said = wire if isinstance(wire, dict) else {}
    message = str(said.get("message") or said.get("error") or f"the API answered with status {status}")
    if status == 409 and said.get("reason"):
        raise LeaseLostError(message, reason=str(said["reason"]))
    if status in _ERRORS:
        raise _ERRORS[status](message)
    if 400 <= status < 500 and status != 429:
        errors = tuple(
            (str(error.get("path", "")), str(error.get("message", ""))) for error in said.get("errors") or ()
        )
        raise InvalidInputError(message, errors=errors, index=said.get("index"))
    if status < 400:
        raise UnavailableError(f"the API answered with a redirect (status {status}), which is not followed")
    raise UnavailableError(message)


def _without_password(url: str) -> str:
    """The address as it may be shown."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
