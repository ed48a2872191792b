from __future__ import annotations

import threading
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from kelpie.errors import (
    ForbiddenError,
    InvalidInputError,
    LeaseLostError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from kelpie.job import CommandEnd, JobStatus, LogBatch, LogLine, LogStream, Outcome, UploadBacklog
from kelpie.transfers import EntryTransfers, TransferReport, TransferState
from kelpie_worker.http_queue import HttpQueue
from kelpie_worker.queue import UnknownCallError
from tests.unit.worker.conftest import ScriptedServer
from tests.unit.worker.doubles import settings, shell_job
from tests.waiting import wait_until

WIRE = {
    "id": "job-1",
    "command": "sh",
    "arguments": ["-c", "true"],
    "container_group_id": "q",
    "sync": {"before": [{"bucket": "b", "prefix": "p/", "local_path": "/in", "direction": "download"}]},
    "heartbeat_interval": 7,
    "attempt": 3,
    "fence": 12,
    "lease": "secret",
    "machine_id": "node-1",
}


@pytest.fixture
def queue(server: ScriptedServer, tmp_path: Path) -> HttpQueue:
    return HttpQueue(settings(tmp_path, api_url=server.url, api_key="klp_key", container_group_id="q/1"))


def test_a_poll_says_who_asks_for_what_and_how_long(server: ScriptedServer, queue: HttpQueue) -> None:
    server.answer = lambda request: (200, [WIRE])
    job = queue.lease(7)
    assert job is not None
    assert (job.id, job.attempt, job.fence, job.lease, job.heartbeat_interval) == (
        "job-1",
        3,
        12,
        "secret",
        7,
    )
    assert job.sync.before[0].local_path == "/in"
    (request,) = server.requests
    assert parse_qs(urlsplit(request.path).query) == {
        "machine_id": ["node-1"],
        "container_group_id": ["q/1"],
        "wait": ["7"],
    }
    assert request.headers["x-kelpie-key"] == "klp_key"
    assert 16 <= len(request.headers["idempotency-key"]) <= 128


def test_a_poll_keeps_its_key_until_it_is_answered(server: ScriptedServer, queue: HttpQueue) -> None:
    server.answer = lambda request: (503, {"error": "Unavailable", "message": "Redis"})
    with pytest.raises(UnavailableError):
        queue.lease(1)
    server.answer = lambda request: None
    with pytest.raises(UnavailableError):
        queue.lease(1)
    server.answer = lambda request: (200, [])
    assert queue.lease(1) is None
    assert queue.lease(1) is None
    keys = [request.headers["idempotency-key"] for request in server.requests]
    assert len(set(keys[:-1])) == 1
    assert keys[-1] != keys[0]


def test_a_wait_longer_than_the_api_grants_is_cut(server: ScriptedServer, queue: HttpQueue) -> None:
    server.answer = lambda request: (200, [])
    queue.lease(3600)
    assert "wait=20" in server.requests[0].path


def test_stopping_ends_an_open_poll_and_picks_up_the_job_it_was_given(
    server: ScriptedServer, queue: HttpQueue
) -> None:
    end = threading.Event()

    def answer(request: Any) -> tuple[int, Any]:
        if "wait=0" in request.path:
            return 200, [WIRE]
        end.wait(60)
        return 200, []

    server.answer = answer
    jobs: list[Any] = []
    poll = threading.Thread(target=lambda: jobs.append(queue.lease(20)))
    poll.start()
    wait_until(lambda: server.requests, "the poll to arrive")
    queue.stop_leasing()
    poll.join(30)
    assert [job.id for job in jobs] == ["job-1"]
    assert len({request.headers["idempotency-key"] for request in server.requests}) == 1
    assert queue.lease(20) is not None  # later polls do not wait
    assert "wait=0" in server.requests[-1].path
    end.set()


def test_an_answer_that_is_no_job_is_a_failed_poll(server: ScriptedServer, queue: HttpQueue) -> None:
    for nonsense in ([{"id": "x"}], ["job"], {"jobs": []}, b"<html>", b"", [WIRE | {"attempt": "no"}]):
        server.answer = lambda request, nonsense=nonsense: (200, nonsense)  # type: ignore[misc]  # a default binds
        with pytest.raises(UnavailableError):
            queue.lease(1)


def test_reports_show_the_lease_and_the_node(server: ScriptedServer, queue: HttpQueue) -> None:
    who = {"machine_id": "node-1", "container_group_id": "q/1", "lease": "secret"}
    job = shell_job("true")
    server.answer = lambda request: (200, {"status": "running", "lease_expires": "2026-01-01T00:00:00.000Z"})
    assert queue.heartbeat(job).status is JobStatus.RUNNING
    queue.heartbeat(job, UploadBacklog(2, 10, 0.5))
    moved = EntryTransfers(TransferState.DONE, files=2, last_age_s=0.12345)
    queue.heartbeat(job, transfers=TransferReport(before=(moved, EntryTransfers())))
    server.answer = lambda request: (200, {"message": "ok", "node_bans": 5, "reallocate": True})
    queue.completed(job)
    queue.released(job)
    assert queue.failed(job, Outcome.SYNC_FAILED, 3, "x" * 5000).node_bans == 5
    queue.failed(job, Outcome.APP_FAILED, 137, None, CommandEnd(9, True, "y" * 9000 + "end"))
    sent = [(request.method, request.path, request.body) for request in server.requests]
    assert sent == [
        ("POST", "/jobs/job-1/heartbeat", who),
        (
            "POST",
            "/jobs/job-1/heartbeat",
            who | {"upload_backlog": {"files": 2, "bytes": 10, "oldest_s": 0.5}},
        ),
        (
            "POST",
            "/jobs/job-1/heartbeat",
            who | {"transfers": {"before": [{"state": "done", "files": 2, "last_age_s": 0.123}, {}]}},
        ),
        ("POST", "/jobs/job-1/completed", who),
        ("POST", "/jobs/job-1/released", who),
        (
            "POST",
            "/jobs/job-1/failed",
            who | {"outcome": "sync_failed", "exit_code": 3, "reason": "x" * 2000},
        ),
        (
            "POST",
            "/jobs/job-1/failed",
            who
            | {"outcome": "app_failed", "exit_code": 137, "signal": 9, "out_of_memory": True}
            | {"stderr_tail": "y" * 8189 + "end"},
        ),
    ]


def test_the_connection_is_used_again(server: ScriptedServer, queue: HttpQueue) -> None:
    server.answer = lambda request: (200, {"status": "running"})
    for _ in range(5):
        queue.heartbeat(shell_job("true"))
    assert len(server.connections) == 1


def test_a_connection_that_broke_is_tried_once_more(server: ScriptedServer, queue: HttpQueue) -> None:
    server.answer = lambda request: None if len(server.requests) == 1 else (200, {"status": "running"})
    assert queue.heartbeat(shell_job("true")).status is JobStatus.RUNNING
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, {"error": "Bad Request", "message": "m"}, InvalidInputError),
        (401, {"error": "Unauthorized", "message": "m"}, UnauthenticatedError),
        (401, b"", UnauthenticatedError),
        (403, b"<html>", ForbiddenError),
        (404, {"error": "Not Found", "message": "m"}, NotFoundError),
        (404, b"<html>not here</html>", UnavailableError),  # a proxy, not the API
        (404, {"error": "Route Not Found"}, UnavailableError),  # a wrong address, not a deleted job
        (409, b"<html>", UnavailableError),
        (429, {"error": "Too Many Requests", "message": "m"}, UnavailableError),
        (500, {"error": "Internal", "message": "m"}, UnavailableError),
        (502, b"<html>", UnavailableError),
        (503, {"error": "Unavailable", "message": "m"}, UnavailableError),
        (302, b"", UnavailableError),
    ],
)
def test_every_status_means_one_thing(
    server: ScriptedServer, queue: HttpQueue, status: int, body: Any, error: type[Exception]
) -> None:
    server.answer = lambda request: (status, body)
    with pytest.raises(error):
        queue.completed(shell_job("true"))


@pytest.mark.parametrize(
    ("body", "reason"),
    [({"error": "c", "reason": "superseded"}, "superseded"), ({"error": "c"}, "not_holder")],
)
def test_a_conflict_is_a_lost_lease(server: ScriptedServer, queue: HttpQueue, body: Any, reason: str) -> None:
    server.answer = lambda request: (409, body)
    with pytest.raises(LeaseLostError) as caught:
        queue.completed(shell_job("true"))
    assert caught.value.reason == reason


def test_an_older_server_that_tells_no_bans_is_counted_for(server: ScriptedServer, queue: HttpQueue) -> None:
    server.answer = lambda request: (202, {"message": "Failure reported"})
    bans = [
        queue.failed(shell_job("false", id=x), Outcome.APP_FAILED, 1, None).node_bans for x in ("a", "b", "b")
    ]
    assert bans == [1, 2, 2]


def test_an_older_server_gives_neither_lease_nor_attempt(server: ScriptedServer, queue: HttpQueue) -> None:
    old = {key: value for key, value in WIRE.items() if key not in {"lease", "attempt", "fence"}}
    server.answer = lambda request: (200, [old])
    job = queue.lease(1)
    assert job is not None
    assert (job.attempt, job.lease) == (1, None)
    server.answer = lambda request: (200, {"status": "running"})
    queue.heartbeat(job)
    assert "lease" not in server.requests[-1].body


def test_salad_credentials_are_shown_when_there_is_no_key(server: ScriptedServer, tmp_path: Path) -> None:
    salad = {"salad_api_key": "k", "salad_organization": "o", "salad_project": "p"}
    server.answer = lambda request: (200, [])
    HttpQueue(settings(tmp_path, api_url=server.url, **salad)).lease(1)
    headers = server.requests[0].headers
    assert (headers["salad-api-key"], headers["salad-organization"], headers["salad-project"]) == (
        "k",
        "o",
        "p",
    )


def test_nobody_at_home_is_unavailable(tmp_path: Path) -> None:
    queue = HttpQueue(settings(tmp_path, api_url="http://127.0.0.1:1", api_key="hunter2"))
    with pytest.raises(UnavailableError) as caught:
        queue.lease(0)
    assert "hunter2" not in str(caught.value)


def test_a_nodes_own_token_is_read_anew_at_every_call(server: ScriptedServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    queue = HttpQueue(settings(tmp_path, api_url=server.url, token_file=token, salad_project="sims"))
    server.answer = lambda request: (200, [])
    with pytest.raises(UnavailableError, match="KELPIE_TOKEN_FILE"):  # it may come yet
        queue.lease(0)
    for said in ("first", "second"):
        token.write_text(f"{said}\n")
        queue.lease(0)
        headers = server.requests[-1].headers
        assert headers["authorization"] == f"Bearer {said}"
        assert headers["salad-project"] == "sims"
        assert "x-kelpie-key" not in headers


def test_an_api_key_goes_before_a_token(server: ScriptedServer, tmp_path: Path) -> None:
    queue = HttpQueue(
        settings(tmp_path, api_url=server.url, token_file=tmp_path / "missing", api_key="klp_key")
    )
    server.answer = lambda request: (200, [])
    queue.lease(0)
    assert "authorization" not in server.requests[-1].headers


def test_lines_are_sent_with_their_numbers_and_a_server_that_knows_no_logs_is_told_apart(
    server: ScriptedServer, queue: HttpQueue
) -> None:
    batch = LogBatch(7, (LogLine(LogStream.STDERR, 5, "oh"),))
    queue.log(shell_job("true"), batch)
    (request,) = server.requests
    assert request.path == "/jobs/job-1/logs"
    assert request.body["lease"] == "secret"
    assert (request.body["first"], request.body["lines"]) == (
        7,
        [{"stream": "stderr", "time": 5, "text": "oh"}],
    )
    server.answer = lambda request: (404, {"error": "Route Not Found"})
    with pytest.raises(UnknownCallError):
        queue.log(shell_job("true"), batch)
