"""Messages that come late, twice or never: each row of the protocol's table, over HTTP with real time.

The same rows over the store alone, with every kind of caller, are in tests/unit/store/test_faults.py.
"""

from __future__ import annotations

import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.api import ApiUser
from tests.factories import job_body
from tests.system.contract import leased
from tests.waiting import wait_until

INTERVAL_S = 1  # so that a lease runs out within two seconds


def poll(api: ApiUser, group: str, node: str, *, wait_s: int = 0, **how: Any) -> dict[str, Any] | None:
    """The job that a node gets within the time."""
    jobs = api.ok("GET", f"/work?machine_id={node}&container_group_id={group}&wait={wait_s}", **how)
    return jobs[0] if jobs else None


def say(api: ApiUser, job: dict[str, Any], what: str, *, by_lease: bool = True) -> tuple[int, Any]:
    """The status and answer of a node's message about the job that it was given."""
    body = {"machine_id": job["machine_id"], "container_group_id": job["container_group_id"]}
    if by_lease:
        body["lease"] = job["lease"]
    status, _, answer = api.request("POST", f"/jobs/{job['id']}/{what}", json=body)
    return status, answer


@pytest.fixture(params=[True, False], ids=["by lease", "by node"])
def by_lease(request: pytest.FixtureRequest) -> bool:
    """Whether the worker knows leases."""
    return bool(request.param)


@pytest.fixture
def superseded(api: ApiUser, group: str) -> dict[str, Any]:
    """A job as its first node sees it, whose lease has run out and which another node has taken."""
    first = leased(api, group, heartbeat_interval=INTERVAL_S)
    second = poll(api, group, "node-2", wait_s=20)
    assert second is not None
    assert (second["id"], second["attempt"]) == (first["id"], 2)
    assert say(api, second, "heartbeat")[1]["status"] == "running"
    return first


def test_completed_although_the_lease_expired_and_nobody_else_took_the_job_is_200(
    api: ApiUser, group: str, by_lease: bool
) -> None:
    job = leased(api, group, "node-1", heartbeat_interval=INTERVAL_S)
    assert say(api, job, "failed", by_lease=by_lease)[0] == 202
    job = poll(api, group, "node-2") or pytest.fail("the job is not at once free for another node")

    def interrupted() -> bool:
        assert poll(api, group, "node-1") is None  # which is banned: it looks, and puts back what has expired
        return api.job(job["id"])["attempts"][-1]["outcome"] == "interrupted"

    wait_until(interrupted, "the lease runs out")
    assert say(api, job, "completed", by_lease=by_lease)[0] == 200
    found = api.job(job["id"])
    assert (found["status"], [a["outcome"] for a in found["attempts"]]) == (
        "completed",
        ["app_failed", "completed"],
    )


@pytest.mark.parametrize("what", ["completed", "failed", "released"])
def test_a_report_of_an_older_attempt_is_409_and_changes_nothing(
    api: ApiUser, superseded: dict[str, Any], what: str
) -> None:
    before = api.job(superseded["id"])
    status, answer = say(api, superseded, what)
    assert (status, answer["reason"]) == (409, "superseded")
    after = api.job(superseded["id"])
    assert (after["status"], after["num_failures"]) == ("running", 0)
    assert after["attempts"] == before["attempts"]


def test_a_heartbeat_of_an_older_attempt_is_200_canceled_superseded(
    api: ApiUser, superseded: dict[str, Any]
) -> None:
    for by_lease in (True, False):
        status, answer = say(api, superseded, "heartbeat", by_lease=by_lease)
        assert (status, answer["status"], answer["reason"]) == (200, "canceled", "superseded")


def test_completed_twice_is_200_twice_and_ends_the_job_once(api: ApiUser, group: str, by_lease: bool) -> None:
    job = leased(api, group)
    answers = [say(api, job, "completed", by_lease=by_lease) for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0][0] == 200
    assert [a["outcome"] for a in api.job(job["id"])["attempts"]] == ["completed"]


@pytest.mark.parametrize("max_failures", [1, 3])
def test_failed_twice_by_the_same_attempt_is_202_twice_and_counts_once(
    api: ApiUser, group: str, by_lease: bool, max_failures: int
) -> None:
    job = leased(api, group, max_failures=max_failures)
    answers = [say(api, job, "failed", by_lease=by_lease) for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0][0] == 202
    assert api.job(job["id"])["num_failures"] == 1


def test_failed_after_completed_is_409_and_the_first_stands(api: ApiUser, group: str, by_lease: bool) -> None:
    job = leased(api, group)
    assert say(api, job, "completed", by_lease=by_lease)[0] == 200
    assert say(api, job, "failed", by_lease=by_lease)[0] == 409
    found = api.job(job["id"])
    assert (found["status"], found["num_failures"]) == ("completed", 0)


@pytest.mark.parametrize(("max_failures", "status"), [(1, "failed"), (3, "running")])
def test_completed_after_failed_is_409_and_the_first_stands(
    api: ApiUser, group: str, by_lease: bool, max_failures: int, status: str
) -> None:
    job = leased(api, group, max_failures=max_failures)
    assert say(api, job, "failed", by_lease=by_lease)[0] == 202
    assert say(api, job, "completed", by_lease=by_lease)[0] == 409
    found = api.job(job["id"])
    assert (found["status"], found["num_failures"]) == (status, 1)


def test_completed_after_cancel_was_asked_is_409_and_the_answer_says_canceled(
    api: ApiUser, group: str, by_lease: bool
) -> None:
    job = leased(api, group)
    api.ok("DELETE", f"/jobs/{job['id']}")
    status, answer = say(api, job, "completed", by_lease=by_lease)
    assert (status, answer["reason"]) == (409, "canceled")
    status, answer = say(api, job, "heartbeat", by_lease=by_lease)
    assert (status, answer["status"], answer["reason"]) == (200, "canceled", "canceled")
    assert api.job(job["id"])["status"] == "canceled"


@pytest.mark.parametrize("what", ["heartbeat", "completed", "failed", "released"])
def test_anything_about_a_deleted_job_is_404(api: ApiUser, group: str, by_lease: bool, what: str) -> None:
    job = leased(api, group)
    api.ok("DELETE", f"/jobs/{job['id']}?purge=true")
    assert say(api, job, what, by_lease=by_lease)[0] == 404


def test_a_poll_repeated_with_the_same_request_id_gets_the_same_lease_again(api: ApiUser, group: str) -> None:
    api.submit(job_body(container_group_id=group))
    api.submit(job_body(container_group_id=group))
    same = {"Idempotency-Key": uuid.uuid4().hex}
    first, again = (poll(api, group, "node-1", headers=same) for _ in range(2))
    assert first is not None
    assert again is not None
    told = ("id", "attempt", "lease", "fence")
    assert [first[name] for name in told] == [again[name] for name in told]
    other = poll(api, group, "node-1")
    assert other is not None
    assert other["id"] != first["id"]


def test_of_many_polls_at_once_each_gets_at_most_one_job_and_no_job_goes_out_twice(
    api: ApiUser, group: str
) -> None:
    jobs, polls = 100, 160
    submitted = api.ok("POST", "/jobs/batch", json=[job_body(container_group_id=group)] * jobs)
    with ThreadPoolExecutor(32) as threads:
        found = list(threads.map(lambda n: poll(api, group, f"node-{n}"), range(polls)))
    given = Counter(job["id"] for job in found if job is not None)
    assert given == Counter(job["id"] for job in submitted)
    assert sum(job is None for job in found) == polls - jobs


def test_a_submit_repeated_with_the_same_idempotency_key_is_202_and_the_same_job(
    api: ApiUser, group: str
) -> None:
    same = {"Idempotency-Key": uuid.uuid4().hex}
    body = job_body(container_group_id=group)
    answers = [api.request("POST", "/jobs", json=body, headers=same) for _ in range(2)]
    assert [status for status, _, _ in answers] == [202, 202]
    assert answers[0][2]["id"] == answers[1][2]["id"]
    assert len(api.ok("GET", f"/jobs?container_group_id={group}")["jobs"]) == 1


def test_another_submit_under_the_same_idempotency_key_is_409_and_queues_nothing(
    api: ApiUser, group: str
) -> None:
    same = {"Idempotency-Key": uuid.uuid4().hex}
    assert api.request("POST", "/jobs", json=job_body(container_group_id=group), headers=same)[0] == 202
    other = job_body(container_group_id=group, command="false")
    assert api.request("POST", "/jobs", json=other, headers=same)[0] == 409
    assert len(api.ok("GET", f"/jobs?container_group_id={group}")["jobs"]) == 1
