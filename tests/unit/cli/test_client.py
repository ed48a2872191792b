"""The client: what it repeats and what it must not, and the errors it raises."""

from __future__ import annotations

import pytest

from kelpie import Client
from kelpie.client import job_spec, sync_entry
from kelpie.errors import ConflictError, InvalidInputError, LeaseLostError, NotFoundError, UnavailableError
from kelpie.job import Direction, JobStatus, Outcome
from tests.unit.cli.conftest import JOB_ID, Scripted, job_wire


def test_a_read_is_repeated_until_the_api_is_back(server: Scripted) -> None:
    server.answer(503, {"error": "Unavailable"}, Retry_After="0")
    server.answer(0, None)
    server.answer(200, job_wire(status="completed", completed="2026-11-24T00:00:01.500Z"))
    with Client() as client:
        job = client.job(JOB_ID)
    assert job.status is JobStatus.COMPLETED
    assert job.done
    assert job.ended == job.created + 1500
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [0, 502, 503])
def test_a_submit_that_may_have_been_stored_is_not_repeated(server: Scripted, status: int) -> None:
    server.answer(status, None if status == 0 else {"error": "Unavailable"})
    with Client() as client, pytest.raises(UnavailableError):
        client.submit(["true"], queue="q")
    assert len(server.requests) == 1


def test_a_submit_that_was_too_fast_is_repeated(server: Scripted) -> None:
    server.answer(429, {"error": "Too Fast"}, Retry_After="0")
    server.answer(202, job_wire())
    with Client() as client:
        assert client.submit(["true"], queue="q").id == JOB_ID


def test_a_purge_whose_reply_was_lost_is_done(server: Scripted) -> None:
    server.answer(0, None)
    server.answer(404, {"error": "Not Found"})
    with Client() as client:
        client.purge(JOB_ID)
        with pytest.raises(NotFoundError):
            client.purge(JOB_ID)


def test_errors_carry_what_the_api_said(server: Scripted) -> None:
    server.answer(
        400,
        {"error": "Bad", "message": "job 3 is wrong", "index": 3, "errors": [{"path": "a", "message": "b"}]},
    )
    server.answer(409, {"error": "Conflict", "message": "lost", "reason": "superseded"})
    server.answer(409, {"error": "Conflict", "message": "it has completed"})
    with Client() as client:
        with pytest.raises(InvalidInputError, match="job 3 is wrong") as invalid:
            client.submit_many([{"command": "true"}])
        with pytest.raises(LeaseLostError) as lost:
            client.job(JOB_ID)
        with pytest.raises(ConflictError):
            client.cancel(JOB_ID)
    assert (invalid.value.index, invalid.value.errors) == (3, (("a", "b"),))
    assert lost.value.reason == "superseded"


def test_the_key_is_not_sent_to_where_a_redirect_points(server: Scripted) -> None:
    server.answer(307, {}, Location=f"{server.url}/elsewhere")
    with Client() as client, pytest.raises(UnavailableError, match="redirect"):
        client.job(JOB_ID)
    assert [request.path for request in server.requests] == [f"/jobs/{JOB_ID}"]


def test_an_id_cannot_lead_to_another_path(server: Scripted) -> None:
    server.answer(404, {"error": "Not Found"})
    with Client() as client, pytest.raises(NotFoundError):
        client.purge("../users/1?x=")
    assert server.requests[0].path == "/jobs/..%2Fusers%2F1%3Fx%3D?purge=true"


@pytest.mark.parametrize("url", ["redis://127.0.0.1", "ftp://x", "127.0.0.1:8080", "http://"])
def test_a_url_that_is_no_api_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError, match="http://"):
        Client(url, "key")


def test_the_key_is_never_shown() -> None:
    with Client("http://127.0.0.1:9", "klp_secret") as client:
        assert "klp_secret" not in repr(client)


def test_wait_ends_with_a_timeout(server: Scripted) -> None:
    server.answer(200, job_wire(status="running"))
    with Client() as client, pytest.raises(TimeoutError, match="running"):
        client.wait(JOB_ID, 0.0)


def test_attempts_are_typed(server: Scripted) -> None:
    one = {
        "attempt": 1,
        "machine_id": "node-1",
        "start": "2026-11-24T00:00:00.000Z",
        "end": "2026-11-24T00:00:01.000Z",
        "outcome": "interrupted",
    }
    server.answer(200, job_wire(attempts=[one]))
    with Client() as client:
        (attempt,) = client.attempts(JOB_ID)
    assert attempt.outcome is Outcome.INTERRUPTED
    assert attempt.end == attempt.start + 1000
    assert server.requests[0].path == f"/jobs/{JOB_ID}?expand=attempts"


def test_a_folder_may_hold_a_colon_and_either_order_is_understood() -> None:
    down = sync_entry("s3://b/a:b:/in", Direction.DOWNLOAD)
    assert (down.bucket, down.prefix, down.local_path) == ("b", "a:b/", "/in")
    up = sync_entry("/out:1:s3://b/x", Direction.UPLOAD)
    assert (up.bucket, up.prefix, up.local_path) == ("b", "x/", "/out:1")
    assert sync_entry("/in:s3://b/x/", Direction.DOWNLOAD) == sync_entry("s3://b/x:/in", Direction.DOWNLOAD)


def test_an_unknown_field_of_a_job_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="max_failurse"):
        job_spec(["true"], queue="q", max_failurse=3)
    with pytest.raises(InvalidInputError, match="command"):
        job_spec([], queue="q")
