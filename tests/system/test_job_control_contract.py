"""What owners do to their jobs and why these wait: the contract over real HTTP."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from kelpie.store import Store
from kelpie.store.keys import QueueKeys
from tests.api import ApiServer, ApiUser
from tests.factories import job_body
from tests.system.contract import (
    BODIES,
    CHANGES,
    UNKNOWN,
    UNKNOWN_IDS,
    change,
    lease,
    leased,
    refused,
    report,
)
from tests.waiting import wait_until


def failed(api: ApiUser, group: str, node: str = "node-1", **job: Any) -> dict[str, Any]:
    """A job on which a node has failed once, which bans it."""
    got = leased(api, group, node, **job)
    api.ok("POST", f"/jobs/{got['id']}/failed", json=report(group, node, lease=got["lease"]))
    return got


def polls_key(api: ApiUser, api_server: ApiServer, group: str) -> str:
    """Where it is kept which nodes poll a group."""
    store = Store.connect(api_server.redis_url)
    queue = store.find_queue(str(api.user_id), group)
    store.close()
    assert queue is not None
    return QueueKeys(queue.number).polls


# ---- hold, resume, requeue, unban


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("job_id", UNKNOWN_IDS)
def test_a_change_of_an_unknown_job_is_404(api: ApiUser, name: str, job_id: str) -> None:
    refused(api.request("POST", f"/jobs/{job_id}/{name}", json=BODIES.get(name)), 404, "Not Found")


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_another_users_job_is_404_and_changes_nothing(
    api: ApiUser, other: ApiUser, group: str, name: str
) -> None:
    job = failed(api, group, max_failures=1) if name == "requeue" else failed(api, group)
    if name == "resume":
        change(api, job, "hold")
    before = api.job(job["id"])
    answer = other.request("POST", f"/jobs/{job['id']}/{name}", json=BODIES.get(name))
    refused(answer, 404, "Not Found")
    assert api.job(job["id"]) == before


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_made_by_post_only(api: ApiUser, name: str) -> None:
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        refused(api.request(method, f"/jobs/{UNKNOWN}/{name}"), 405)


def test_a_held_job_is_not_leased_until_it_is_resumed(api: ApiUser, group: str) -> None:
    job = api.submit(job_body(container_group_id=group))
    for _ in range(2):
        held = change(api, job, "hold")
        assert (held["status"], held["on_hold"]) == ("pending", True)
    assert lease(api, group) is None
    for _ in range(2):
        assert change(api, job, "resume")["on_hold"] is False
    got = lease(api, group)
    assert got is not None
    assert got["id"] == job["id"]


def test_a_held_running_job_goes_on_and_may_complete(api: ApiUser, group: str) -> None:
    job = leased(api, group)
    assert change(api, job, "hold")["status"] == "running"
    assert api.ok("POST", f"/jobs/{job['id']}/heartbeat", json=report(group))["status"] == "running"
    api.ok("POST", f"/jobs/{job['id']}/completed", json=report(group, lease=job["lease"]))
    assert api.job(job["id"])["status"] == "completed"


def test_a_resume_wakes_a_long_poll(api: ApiUser, group: str, api_server: ApiServer) -> None:
    job = api.submit(job_body(container_group_id=group))
    change(api, job, "hold")
    polls = polls_key(api, api_server, group)
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(api.ok, "GET", f"/work?machine_id=n&container_group_id={group}&wait=20")
        with redis.Redis.from_url(api_server.redis_url) as client:
            wait_until(lambda: client.zscore(polls, "n"), "the poll has found nothing")
        change(api, job, "resume")
        assert [got["id"] for got in poll.result(timeout=15)] == [job["id"]]


def test_a_job_that_is_prioritized_goes_before_older_ones(api: ApiUser, group: str) -> None:
    older, newer = (api.submit(job_body(container_group_id=group)) for _ in range(2))
    for _ in range(2):
        assert change(api, newer, "prioritize", json={"priority": 9})["priority"] == 9
    got = lease(api, group)
    assert got is not None
    assert (got["id"], got["priority"]) == (newer["id"], 9)
    assert api.job(older["id"])["priority"] == 0


@pytest.mark.parametrize(
    "body", [{}, {"priority": -1}, {"priority": 256}, {"priority": "x"}, {"priority": None}]
)
def test_a_priority_that_there_is_not_is_400_and_named(
    api: ApiUser, group: str, body: dict[str, Any]
) -> None:
    job = api.submit(job_body(container_group_id=group))
    answer = api.request("POST", f"/jobs/{job['id']}/prioritize", json=body)
    refused(answer, 400)
    assert "priority" in answer[2]["message"]
    assert api.job(job["id"])["priority"] == 0


@pytest.mark.parametrize("end", ["failed", "canceled"])
def test_a_job_that_ended_without_success_can_be_requeued(api: ApiUser, group: str, end: str) -> None:
    if end == "failed":
        job = failed(api, group, max_failures=1)
    else:
        job = leased(api, group)
        api.ok("DELETE", f"/jobs/{job['id']}")
    assert api.job(job["id"])["status"] == end
    again = change(api, job, "requeue")
    assert (again["status"], again["num_failures"], again["banned_nodes"]) == ("running", 0, [])
    assert again[end] is None
    assert change(api, job, "requeue") == again
    got = lease(api, group)
    assert got is not None
    assert (got["id"], got["attempt"]) == (job["id"], 2)
    assert len(api.job(job["id"])["attempts"]) == 2


def test_a_requeue_ends_the_pause_after_a_failure(api: ApiUser, group: str) -> None:
    job = failed(api, group, retry_backoff_s=3600)
    assert lease(api, group, "node-2") is None
    assert change(api, job, "requeue")["num_failures"] == 1
    assert lease(api, group, "node-2") is not None


@pytest.mark.parametrize(
    ("name", "end"),
    [
        *(
            (name, end)
            for name in ("hold", "resume", "unban", "prioritize")
            for end in ("completed", "failed", "canceled")
        ),
        ("requeue", "completed"),
    ],
)
def test_a_change_that_the_status_does_not_allow_is_409(
    api: ApiUser, group: str, name: str, end: str
) -> None:
    job = leased(api, group, max_failures=1)
    if end == "canceled":
        api.ok("DELETE", f"/jobs/{job['id']}")
    else:
        api.ok("POST", f"/jobs/{job['id']}/{end}", json=report(group))
    before = api.job(job["id"])
    answer = api.request("POST", f"/jobs/{job['id']}/{name}", json=BODIES.get(name))
    body = refused(answer, 409, "Conflict")
    assert end in body["message"]
    assert job["id"] in body["message"]
    assert api.job(job["id"]) == before


@pytest.mark.parametrize("body", [None, b"", b"{}", b'{"machine_id": null}', b'{"else": 1}'])
def test_unban_without_a_node_means_every_node_also_without_any_body(
    api: ApiUser, group: str, body: bytes | None
) -> None:
    job = failed(api, group)
    assert lease(api, group) is None
    unbanned = change(api, job, "unban", body=body)
    assert (unbanned["banned_nodes"], unbanned["num_failures"]) == ([], 1)
    assert lease(api, group) is not None


def test_the_schema_says_that_unban_needs_no_body(api: ApiUser) -> None:
    paths = api.ok("GET", "/openapi.json")["paths"]
    assert paths["/jobs/{job_id}/unban"]["post"]["requestBody"]["required"] is False
    assert paths["/jobs/{job_id}/failed"]["post"]["requestBody"]["required"] is True


def test_unban_of_one_node_leaves_the_other_bans(api: ApiUser, group: str) -> None:
    job = failed(api, group, "node-1", max_failures=9)
    got = lease(api, group, "node-2")
    assert got is not None
    api.ok("POST", f"/jobs/{job['id']}/failed", json=report(group, "node-2"))
    for _ in range(2):
        assert change(api, job, "unban", json={"machine_id": "node-1"})["banned_nodes"] == ["node-2"]
    assert change(api, job, "unban", json={"machine_id": "nobody"})["banned_nodes"] == ["node-2"]
    assert lease(api, group, "node-2") is None
    assert lease(api, group, "node-1") is not None


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'"node-1"', b"5", b"null", b'{"machine_id": 5}', b'{"machine_id": ""}']
)
def test_unban_with_a_malformed_body_is_400_and_lifts_nothing(api: ApiUser, group: str, body: bytes) -> None:
    job = failed(api, group)
    refused(api.request("POST", f"/jobs/{job['id']}/unban", body=body), 400, "Invalid Input")
    for machine_id in ("x" * 129, "a\nb", ["node-1"]):
        wrong = {"machine_id": machine_id}
        refusal = refused(api.request("POST", f"/jobs/{job['id']}/unban", json=wrong), 400)
        assert [error["path"].split(".")[0] for error in refusal["errors"]] == ["machine_id"]
    assert api.job(job["id"])["banned_nodes"] == ["node-1"]


@pytest.mark.parametrize("name", ["hold", "resume", "requeue"])
def test_a_change_that_takes_no_body_ignores_one(api: ApiUser, group: str, name: str) -> None:
    job = api.submit(job_body(container_group_id=group))
    for body in (None, b"", b"{}", b"{"):
        change(api, job, name, body=body)


def test_the_admin_may_change_the_jobs_of_all(api: ApiUser, admin: ApiUser, group: str) -> None:
    job = api.submit(job_body(container_group_id=group))
    change(admin, job, "hold")
    assert api.job(job["id"])["on_hold"] is True


# ---- why a job waits


def test_a_job_says_what_it_waits_for(api: ApiUser, group: str, api_server: ApiServer) -> None:
    def said(job: dict[str, Any]) -> str | None:
        shown = api.ok("GET", f"/jobs/{job['id']}")["waiting_for"]
        [in_list] = [one for one in api.ok("GET", "/jobs")["jobs"] if one["id"] == job["id"]]
        assert in_list["waiting_for"] == shown
        return None if shown is None else str(shown)

    first, second, third = (api.submit(job_body(container_group_id=group)) for _ in range(3))
    assert said(first) == "no node polls this group"
    held = api.submit(job_body(container_group_id=group))
    change(api, held, "hold")
    assert said(held) == "held: it waits until it is resumed"
    late = api.submit(job_body(container_group_id=group, not_before="2099-01-31T10:00:00+02:00"))
    assert said(late) == "not before 2099-01-31T08:00:00.000Z"
    got = lease(api, group, "node-1")
    assert got is not None
    assert said(first) is None
    assert said(second) == "it is next in turn"
    assert said(third) == "jobs before it in turn: 1"
    api.ok("POST", f"/jobs/{first['id']}/failed", json=report(group, lease=got["lease"]))
    assert said(first) == "every polling node is banned (node-1)"
    api.ok("DELETE", f"/jobs/{first['id']}")
    assert said(first) is None

    paused = failed(api, f"{group}-b", retry_backoff_s=3600)
    assert str(said(paused)).endswith("Z (a pause after its last failure)")
    assert str(said(paused)).startswith("not before ")

    # The node that polled has a job and does not poll any more.
    assert lease(api, group, "node-1") is not None
    with redis.Redis.from_url(api_server.redis_url) as client:
        assert client.delete(polls_key(api, api_server, group)) == 1
    assert said(third) == "a free node: all are busy (1 jobs run)"
