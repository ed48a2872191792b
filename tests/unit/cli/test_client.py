"""The client: what it repeats and what it must not, and the errors it raises."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qs, urlsplit

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
def test_a_submit_whose_reply_was_lost_is_repeated_under_the_same_key(server: Scripted, status: int) -> None:
    server.answer(status, None if status == 0 else {"error": "Unavailable"}, Retry_After="0")
    server.answer(202, job_wire())
    with Client() as client:
        assert client.submit(["true"], queue="q").id == JOB_ID
        client.submit(["true"], queue="q")
    keys = [request.headers["Idempotency-Key"] for request in server.requests]
    assert keys[0] == keys[1]
    assert keys[2] != keys[0]
    assert server.requests[0].body == server.requests[1].body


def test_a_batch_whose_reply_was_lost_is_repeated_under_the_same_key(server: Scripted) -> None:
    server.answer(0, None)
    server.answer(202, [job_wire()])
    with Client() as client:
        client.submit_many([{"command": "true"}])
    assert len({request.headers["Idempotency-Key"] for request in server.requests}) == 1
    assert [request.path for request in server.requests] == ["/jobs/batch"] * 2


def test_a_submit_goes_under_the_key_that_it_is_given(server: Scripted) -> None:
    server.answer(202, job_wire())
    with Client() as client:
        client.submit(["true"], queue="q", idempotency_key="mine")
    server.answers[:] = [(202, [job_wire()], {})]
    with Client() as client:
        client.submit_many([{"command": "true"}], idempotency_key="ours")
    assert [request.headers["Idempotency-Key"] for request in server.requests] == ["mine", "ours"]


@pytest.mark.parametrize("status", [0, 502, 503])
def test_what_the_server_would_not_know_again_is_not_repeated(server: Scripted, status: int) -> None:
    server.answer(status, None if status == 0 else {"error": "Unavailable"})
    with Client() as client, pytest.raises(UnavailableError):
        client.create_user("ada")
    assert len(server.requests) == 1
    assert "Idempotency-Key" not in server.requests[0].headers


def test_a_submit_is_not_repeated_for_ever(server: Scripted) -> None:
    server.answer(503, {"error": "Unavailable", "message": "no Redis"}, Retry_After="0")
    with Client() as client, pytest.raises(UnavailableError, match="no Redis"):
        client.submit(["true"], queue="q")
    assert len(server.requests) == 5


@pytest.mark.parametrize("change", ["hold", "resume", "requeue", "unban"])
def test_a_change_is_repeated_after_a_lost_reply_and_gives_the_job(server: Scripted, change: str) -> None:
    server.answer(0, None)
    server.answer(200, job_wire(on_hold=True, banned_nodes=["n1"]))
    with Client() as client:
        job = getattr(client, change)(JOB_ID)
    assert (job.id, job.on_hold, job.banned_nodes) == (JOB_ID, True, ("n1",))
    assert [(request.method, request.path) for request in server.requests] == [
        ("POST", f"/jobs/{JOB_ID}/{change}")
    ] * 2


def test_unban_names_the_node_that_it_is_given(server: Scripted) -> None:
    server.answer(200, job_wire())
    with Client() as client:
        client.unban(JOB_ID)
        client.unban(JOB_ID, "n1")
    assert [request.body for request in server.requests] == [{}, {"machine_id": "n1"}]


def page(count: int, **more: Any) -> dict[str, Any]:
    return {"_count": count, "jobs": [job_wire()] * count, **more}


def test_a_list_goes_on_from_cursors_past_pages_without_a_match(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kelpie.client.jobs.PAGE_SIZE", 2)
    for count, cursor in ((2, "a"), (0, "b"), (1, "c"), (2, None)):
        server.answer(200, page(count, next_cursor=cursor))
    with Client() as client:
        jobs = client.jobs(labels={"a": "b=c", "d": ""}, node="n 1", text="x&y", queue="q")
    assert len(jobs) == 5
    queries = [parse_qs(urlsplit(request.path).query, keep_blank_values=True) for request in server.requests]
    assert [query.get("cursor") for query in queries] == [None, ["a"], ["b"], ["c"]]
    same = {
        "container_group_id": ["q"],
        "label": ["a=b=c", "d="],
        "machine_id": ["n 1"],
        "q": ["x&y"],
        "page_size": ["2"],
        "asc": ["false"],
    }
    assert all(query | same == query and "page" not in query for query in queries)


def test_a_list_reads_no_page_more_than_it_needs(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kelpie.client.jobs.PAGE_SIZE", 2)
    for cursor in "abc":
        server.answer(200, page(2, next_cursor=cursor))
    with Client() as client:
        assert len(client.jobs(limit=3)) == 3
    assert len(server.requests) == 2


def test_a_cursor_that_leads_nowhere_ends_a_list(server: Scripted) -> None:
    server.answer(200, page(1, next_cursor="a"))
    with Client() as client:
        assert len(client.jobs()) == 2
    assert len(server.requests) == 2


def test_the_numbered_pages_of_an_older_api_are_read_too(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kelpie.client.jobs.PAGE_SIZE", 2)
    for count in (2, 2, 1):
        server.answer(200, page(count))
    with Client() as client:
        assert len(client.jobs(status=JobStatus.FAILED, queue="q")) == 5
    queries = [parse_qs(urlsplit(request.path).query) for request in server.requests]
    assert [query.get("page") for query in queries] == [None, ["2"], ["3"]]
    assert all(query["status"] == ["failed"] for query in queries)


@pytest.mark.parametrize("chosen", [{"labels": {"a": "b"}}, {"node": "n"}, {"text": "x"}])
def test_an_older_api_that_would_list_all_jobs_is_not_taken_at_its_word(
    server: Scripted, chosen: dict[str, Any]
) -> None:
    server.answer(200, page(2))
    with Client() as client, pytest.raises(InvalidInputError, match="too old"):
        client.jobs(**chosen)


def test_a_job_may_be_given_times(server: Scripted) -> None:
    server.answer(202, job_wire(not_before="2027-01-31T08:00:00.000Z", max_runtime_s=60, retry_backoff_s=5))
    moment = datetime(2027, 1, 31, 10, tzinfo=timezone(timedelta(hours=2)))
    with Client() as client:
        job = client.submit(["true"], queue="q", not_before=moment, max_runtime_s=60, retry_backoff_s=5)
    assert server.requests[0].body == {
        "command": "true",
        "container_group_id": "q",
        "sync": {},
        "not_before": "2027-01-31T08:00:00.000Z",
        "max_runtime_s": 60,
        "retry_backoff_s": 5,
    }
    assert job.spec.not_before == 1000 * int(moment.timestamp())
    with pytest.raises(InvalidInputError, match="offset"):
        job_spec(["true"], queue="q", not_before=datetime(2027, 1, 31))


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


def test_the_history_of_progress_is_typed(server: Scripted) -> None:
    one = {
        "time": "2026-11-24T00:00:01.500Z",
        "attempt": 2,
        "fraction": 0.5,
        "step": 5,
        "metrics": {"loss": 1},
    }
    server.answer(200, job_wire(progress_history=[one]))
    server.answer(200, job_wire())
    with Client() as client:
        (point,) = client.progress_history(JOB_ID)
        assert client.progress_history(JOB_ID) == []
    assert (point.attempt, point.fraction, point.step, point.metrics) == (2, 0.5, 5.0, {"loss": 1.0})
    assert point.to_wire() == one
    assert server.requests[0].path == f"/jobs/{JOB_ID}?expand=progress_history"


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
