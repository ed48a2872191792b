"""What owners do to their jobs, how they find them, and when jobs run: the contract over real HTTP."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
import redis

from kelpie.http import replies
from kelpie.secrets import MASK
from kelpie.store import Store
from kelpie.store.keys import QueueKeys
from tests.api import ApiServer, ApiUser
from tests.factories import job_body
from tests.system.contract import TIME, UNKNOWN, UNKNOWN_IDS, lease, leased, refused, report
from tests.waiting import wait_until

CHANGES = ["hold", "resume", "requeue", "unban", "prioritize"]
BODIES = {"prioritize": {"priority": 9}}
"""What changes take; without an entry nothing."""
GITHUB_TOKEN = "ghp_16C7e42F292c6912E7710c838347Ae178B4a"


def change(api: ApiUser, job: dict[str, Any], name: str, **how: Any) -> dict[str, Any]:
    """The job after a change that must be 200."""
    status, headers, changed = api.request("POST", f"/jobs/{job['id']}/{name}", **how)
    assert status == 200, changed
    assert headers["Content-Type"] == "application/json"
    replies.JobReply.model_validate(changed)
    assert changed["id"] == job["id"]
    return dict(changed)


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


# ---- idempotency


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


# ---- times


def ahead(seconds: float, offset_h: int = 0) -> str:
    """A time from now, ISO-8601 with this offset."""
    moment = datetime.now(UTC).astimezone() + timedelta(seconds=seconds)
    return (moment - moment.utcoffset() + timedelta(hours=offset_h)).replace(tzinfo=None).isoformat(
        timespec="milliseconds"
    ) + (f"{offset_h:+03}:00")


def test_the_new_fields_come_back_with_their_defaults_and_as_they_were_given(
    api: ApiUser, group: str
) -> None:
    plain = api.submit(job_body(container_group_id=group))
    assert [plain[name] for name in ("not_before", "max_runtime_s", "retry_backoff_s")] == [None, None, 0]
    assert (plain["on_hold"], plain["banned_nodes"]) == (False, [])
    given = api.submit(
        job_body(
            container_group_id=group,
            not_before="2027-01-31T10:00:00.25+02:00",
            max_runtime_s=3600,
            retry_backoff_s=60,
        )
    )
    assert given["not_before"] == "2027-01-31T08:00:00.250Z"
    assert (given["max_runtime_s"], given["retry_backoff_s"]) == (3600, 60)
    assert api.ok("GET", f"/jobs/{given['id']}")["not_before"] == given["not_before"]
    assert TIME.match(given["not_before"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("not_before", value) for value in (1_900_000_000, 1.5, "1900000000", True, "tomorrow", "", [])),
        ("not_before", "2027-01-31"),
        ("not_before", "2027-01-31T08:00:00"),  # of which clock?
        ("not_before", "2027-02-30T08:00:00Z"),
        ("not_before", "2027-01-31T25:00:00Z"),
        ("not_before", "1969-12-31T23:59:59Z"),
        ("not_before", "9999-12-31T23:59:59-14:00"),
        ("not_before", "0001-01-01T00:00:00+14:00"),
        ("not_before", "9" * 5000),
        *(("max_runtime_s", value) for value in (0, -1, 1.5, "60", True, 2**31 + 1, 10**30)),
        *(("retry_backoff_s", value) for value in (-1, 1.5, "60", True, 86_401, 10**30)),
        *(("labels", value) for value in ([], "a=b", {"a": 1}, {"a=b": "c"}, {"=": "c"}, {"": "c"})),
        *(("labels", value) for value in ({"x" * 64: ""}, {"a": "x" * 129}, {"a\n": ""}, {"a": "\0"})),
        ("labels", {str(i): "" for i in range(65)}),
    ],
)
def test_a_wrong_value_of_a_new_field_is_400_and_named(api: ApiUser, field: str, value: Any) -> None:
    body = refused(api.request("POST", "/jobs", json=job_body(**{field: value})), 400, "Invalid Input")
    assert {error["path"].split(".")[0] for error in body["errors"]} == {field}
    assert "index" not in body
    assert api.ok("GET", "/jobs")["_count"] == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("not_before", value) for value in (None, "1970-01-01T00:00:00Z", "2026-01-31T08:00Z")),
        ("not_before", "2026-01-31t08:00:00.123456z"),
        ("not_before", "9999-12-31T23:59:59Z"),
        *(("max_runtime_s", value) for value in (None, 1, 2**31)),
        *(("retry_backoff_s", value) for value in (None, 0, 86_400)),
        *(("labels", value) for value in (None, {}, {"x" * 63: "y" * 128}, {"ü": "="})),
    ],
)
def test_the_bounds_of_the_new_fields_belong_to_them(
    api: ApiUser, group: str, field: str, value: Any
) -> None:
    job = api.submit(job_body(container_group_id=group, **{field: value}))
    assert api.ok("GET", f"/jobs/{job['id']}")[field] == job[field]


@pytest.mark.parametrize("offset_h", [0, 2, -5])
def test_a_job_is_leased_once_its_time_has_come(api: ApiUser, group: str, offset_h: int) -> None:
    early = api.submit(job_body(container_group_id=group, not_before=ahead(-5, offset_h)))
    late = api.submit(job_body(container_group_id=group, not_before=ahead(3600, offset_h)))
    soon = api.submit(job_body(container_group_id=group, not_before=ahead(1, offset_h)))
    first = lease(api, group)
    assert first is not None
    assert first["id"] == early["id"]
    second = wait_until(lambda: lease(api, group, "node-2"), "the second job is due")
    assert second["id"] == soon["id"]
    assert lease(api, group, "node-3") is None
    assert api.job(late["id"])["status"] == "pending"


def test_an_attempt_that_runs_for_too_long_is_told_to_stop_and_has_failed(api: ApiUser, group: str) -> None:
    job = leased(api, group, max_runtime_s=1)
    path, who = f"/jobs/{job['id']}/heartbeat", report(group, lease=job["lease"])

    def stopped() -> dict[str, Any] | None:
        answer = api.ok("POST", path, json=who)
        replies.HeartbeatReply.model_validate(answer)
        return answer if answer["status"] != "running" else None

    told = wait_until(stopped, "the attempt has run for a second")
    assert (told["status"], told["reason"], told["lease_expires"]) == ("canceled", "max_runtime", None)
    assert api.ok("POST", path, json=who)["reason"] == "closed"
    refused(api.request("POST", f"/jobs/{job['id']}/completed", json=who), 409, "Lease Lost")
    after = api.job(job["id"])
    assert (after["status"], after["num_failures"], after["banned_nodes"]) == ("running", 1, ["node-1"])
    [attempt] = after["attempts"]
    assert (attempt["outcome"], attempt["reason"]) == ("app_failed", "it ran for longer than max_runtime_s")
    assert lease(api, group, "node-2") is not None


# ---- lists


def listed(api: ApiUser, query: str = "") -> list[str]:
    """The ids of one page, which must be of the one shape."""
    page = api.ok("GET", f"/jobs?{query}")
    replies.JobPageReply.model_validate(page)
    assert page["_count"] == len(page["jobs"])
    return [job["id"] for job in page["jobs"]]


def walked(api: ApiUser, query: str = "") -> list[str]:
    """The ids of all pages, by their cursors."""
    ids: list[str] = []
    cursor = ""
    for _ in range(100):
        page = api.ok("GET", f"/jobs?{query}{cursor}")
        ids += [job["id"] for job in page["jobs"]]
        if page["next_cursor"] is None:
            return ids
        cursor = f"&cursor={quote(page['next_cursor'])}"
    raise AssertionError("the list does not end")


def test_a_list_without_new_parameters_keeps_its_shape(api: ApiUser, group: str) -> None:
    assert api.ok("GET", "/jobs") == {"_count": 0, "jobs": [], "next_cursor": None}
    job = api.submit(job_body(container_group_id=group))
    page = api.ok("GET", "/jobs?page_size=100&page=1&asc=false")
    assert page == {"_count": 1, "jobs": [api.ok("GET", f"/jobs/{job['id']}")], "next_cursor": None}


@pytest.mark.parametrize("asc", ["true", "false"])
def test_cursors_lead_through_all_jobs_without_gap_or_repeat(api: ApiUser, group: str, asc: str) -> None:
    batch = [job_body(container_group_id=f"{group}-{i % 3}") for i in range(25)]
    ids = [job["id"] for job in api.ok("POST", "/jobs/batch", json=batch)]
    api.ok("DELETE", f"/jobs/{ids[3]}")
    found = walked(api, f"page_size=4&asc={asc}")
    assert sorted(found) == sorted(ids)
    in_one = listed(api, f"asc={asc}")
    assert found == in_one
    # from a numbered page on too
    second = api.ok("GET", f"/jobs?page_size=10&page=2&asc={asc}")
    rest = listed(api, f"page_size=10&asc={asc}&cursor={second['next_cursor']}")
    assert [job["id"] for job in second["jobs"]] + rest == in_one[10:]
    assert listed(api, f"page=1&cursor={second['next_cursor']}&page_size=10&asc={asc}") == rest


def test_jobs_are_found_by_status_group_label_node_and_text(
    api: ApiUser, other: ApiUser, admin: ApiUser, group: str
) -> None:
    mark = uuid.uuid4().hex
    both = api.submit(job_body(container_group_id=group, labels={"sweep": mark, "ü x": "a=b&c"}))
    one = api.submit(job_body(container_group_id=f"{group}-b", labels={"sweep": mark}))
    text = api.submit(job_body(container_group_id=group, arguments=["Größe", f"--x={mark}"]))
    theirs = other.submit(job_body(container_group_id=group, labels={"sweep": mark}))
    assert lease(api, group, "n 1") is not None
    sweep = f"label=sweep={mark}"
    exact = f"label={quote('ü x=a=b&c')}"
    assert listed(api, sweep) == [one["id"], both["id"]]
    assert listed(api, f"{sweep}&asc=true") == [both["id"], one["id"]]
    assert listed(api, f"{sweep}&{exact}") == listed(api, f"{exact}&{sweep}&{sweep}") == [both["id"]]
    assert listed(api, f"{sweep}&container_group_id={group}-b") == [one["id"]]
    assert listed(api, f"{sweep}&status=running") == [both["id"]]
    assert listed(api, f"{sweep}0") == listed(api, "label=sweep=") == []
    assert listed(api, "machine_id=n%201") == [both["id"]]
    assert listed(api, "machine_id=n%201&status=pending") == listed(api, "machine_id=n%202") == []
    assert listed(api, f"q={mark}") == [text["id"], one["id"], both["id"]]
    assert listed(api, f"q={quote('GRÖSSE')}") == [text["id"]]
    assert listed(api, f"q={text['id'][:13]}") == [text["id"]]
    assert listed(api, f"q={mark}&machine_id=n%201&{exact}&status=running&page=1") == [both["id"]]
    assert listed(other, sweep) == listed(other, f"q={mark}") == [theirs["id"]]
    assert listed(other, "machine_id=n%201") == []
    assert len(listed(admin, sweep)) == 3


@pytest.mark.parametrize(
    ("query", "path"),
    [
        *((f"{filter_}&page=2", "") for filter_ in ("label=a=b", "machine_id=n", "q=x", "cursor=MSAx")),
        *((f"cursor={cursor}", "cursor") for cursor in ("x", "%21%21", "MTIzNA", "%C3%BC", "a" * 129)),
        *((f"label={label}", "label") for label in ("a", "=b", "x" * 193, "a%00")),
        ("label=a=b&label=a=c", "label"),
        ("&".join(f"label={i}=x" for i in range(17)), "label"),
        (f"machine_id={'x' * 129}", "machine_id"),
        ("machine_id=a%0Ab", "machine_id"),
        (f"q={'x' * 257}", "q"),
    ],
)
def test_a_wrong_search_is_400_and_named(api: ApiUser, query: str, path: str) -> None:
    body = refused(api.request("GET", f"/jobs?{query}"), 400, "Invalid Input")
    assert body["errors"][0]["path"].split(".")[0] == path


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


# ---- secrets


SECRETS = {
    "API_KEY": "swordfish",  # no digits of an id
    "DATABASE": "postgres://user:hunter2@db/x",
    "githubToken": "t-1",
    "EMPTY_KEY": "",
}
SHOWN = {"STEPS": "1000", "TOKENIZERS_PARALLELISM": "true"}


def with_secrets(group: str) -> dict[str, Any]:
    return job_body(
        container_group_id=group,
        command="sim",
        arguments=["--steps", "7", GITHUB_TOKEN],
        environment=SECRETS | SHOWN,
    )


def assert_masked(job: dict[str, Any]) -> None:
    masked = {name: MASK if value else "" for name, value in SECRETS.items()}
    assert job["environment"] == masked | SHOWN
    assert job["arguments"] == ["--steps", "7", MASK]
    assert (job["command"], job["status"]) == ("sim", "pending")
    text = json.dumps(job)
    assert not any(value in text for value in (*SECRETS.values(), GITHUB_TOKEN, "hunter2") if value)


def assert_whole(job: dict[str, Any]) -> None:
    assert job["environment"] == SECRETS | SHOWN
    assert job["arguments"] == ["--steps", "7", GITHUB_TOKEN]


def test_secrets_are_masked_in_lists_and_shown_to_the_owner_and_the_node(api: ApiUser, group: str) -> None:
    job = api.submit(with_secrets(group))
    assert_whole(job)
    for query in ("", "page=1", f"q={job['id']}", f"container_group_id={group}&page_size=1"):
        [found] = api.ok("GET", f"/jobs?{query}")["jobs"]
        assert_masked(found)
    assert_whole(api.ok("GET", f"/jobs/{job['id']}"))
    assert_whole(api.job(job["id"]))
    for name in CHANGES:
        assert_whole(change(api, job, name, json=BODIES.get(name)))
    got = lease(api, group)
    assert got is not None
    assert_whole(got)


def test_the_admin_sees_the_jobs_of_others_masked_and_his_own_whole(
    api: ApiUser, admin: ApiUser, group: str
) -> None:
    job = api.submit(with_secrets(group))
    assert_masked(admin.ok("GET", f"/jobs/{job['id']}"))
    assert_masked(admin.job(job["id"]))
    for name in CHANGES:
        assert_masked(change(admin, job, name, json=BODIES.get(name)))
    [found] = admin.ok("GET", f"/jobs?container_group_id={group}")["jobs"]
    assert_masked(found)
    assert_whole(api.ok("GET", f"/jobs/{job['id']}"))
    own = admin.submit(with_secrets(group))
    assert_whole(admin.ok("GET", f"/jobs/{own['id']}"))
    admin.ok("DELETE", f"/jobs/{own['id']}?purge=true")


def test_no_refusal_and_no_log_repeats_a_secret(api: ApiUser, group: str, api_server: ApiServer) -> None:
    secret = f"ghp_{uuid.uuid4().hex}"
    wrong = job_body(container_group_id=group, environment={"TOKEN": secret}, arguments=[secret], priority=-1)
    assert secret not in json.dumps(refused(api.request("POST", "/jobs", json=wrong), 400))
    api.submit(wrong | {"priority": 0})
    assert secret not in api_server.log.read_text(errors="replace")
