"""Submits that come again under the same key."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from kelpie.http import replies
from tests.api import ApiUser
from tests.factories import job_body
from tests.system.contract import lease, refused


def under(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def test_the_same_job_under_the_same_key_is_202_and_the_same_job(api: ApiUser, group: str) -> None:
    key, body = uuid.uuid4().hex, job_body(container_group_id=group)
    status, _, job = api.request("POST", "/jobs", json=body, headers=under(key))
    assert status == 202
    assert lease(api, group) is not None
    status, _, again = api.request("POST", "/jobs", json=body, headers=under(key))
    assert status == 202
    replies.JobReply.model_validate(again)
    assert (again["id"], again["status"], again["created"]) == (job["id"], "running", job["created"])
    assert api.ok("GET", "/jobs")["_count"] == 1


def test_another_job_under_the_same_key_is_409_and_not_queued(api: ApiUser, group: str) -> None:
    key, body = uuid.uuid4().hex, job_body(container_group_id=group)
    job = api.ok("POST", "/jobs", json=body, headers=under(key))
    for wrong in (body | {"command": "false"}, body | {"container_group_id": f"{group}-b"}):
        refusal = refused(api.request("POST", "/jobs", json=wrong, headers=under(key)), 409, "Conflict")
        assert "idempotency key" in refusal["message"]
    refused(api.request("POST", "/jobs/batch", json=[body, body], headers=under(key)), 409)
    assert [found["id"] for found in api.ok("GET", "/jobs")["jobs"]] == [job["id"]]


def test_a_batch_under_a_key_is_the_same_jobs_in_the_same_order(api: ApiUser, group: str) -> None:
    key = uuid.uuid4().hex
    batch = [job_body(container_group_id=f"{group}-{i % 2}", arguments=[str(i)]) for i in range(6)]
    first = api.ok("POST", "/jobs/batch", json=batch, headers=under(key))
    status, _, again = api.request("POST", "/jobs/batch", json=batch, headers=under(key))
    assert status == 202
    assert [job["id"] for job in again] == [job["id"] for job in first]
    assert len({job["id"] for job in first}) == 6
    refused(api.request("POST", "/jobs/batch", json=batch[::-1], headers=under(key)), 409)
    assert api.ok("GET", "/jobs")["_count"] == 6


def test_many_at_once_under_one_key_make_one_job(api: ApiUser, group: str) -> None:
    key, body = uuid.uuid4().hex, job_body(container_group_id=group)
    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(lambda _: api.ok("POST", "/jobs", json=body, headers=under(key)), range(16)))
    assert len({job["id"] for job in jobs}) == 1
    assert api.ok("GET", "/jobs")["_count"] == 1


def test_a_key_is_its_users_own(api: ApiUser, other: ApiUser, group: str) -> None:
    key, body = uuid.uuid4().hex, job_body(container_group_id=group)
    mine = api.ok("POST", "/jobs", json=body, headers=under(key))
    theirs = other.ok("POST", "/jobs", json=body | {"command": "false"}, headers=under(key))
    assert mine["id"] != theirs["id"]


@pytest.mark.parametrize("key", ["x" * 257, "a b", "é"])
@pytest.mark.parametrize("path", ["/jobs", "/jobs/batch"])
def test_a_wrong_key_is_400_and_queues_nothing(api: ApiUser, group: str, path: str, key: str) -> None:
    body = job_body(container_group_id=group)
    sent = [body] if path.endswith("batch") else body
    refusal = refused(api.request("POST", path, json=sent, headers=under(key)), 400, "Invalid Input")
    assert refusal["errors"][0]["path"] == "Idempotency-Key"
    assert api.ok("GET", "/jobs")["_count"] == 0
