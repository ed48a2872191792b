"""The contract with workers and users that exist already, over real HTTP: statuses and shapes of answers."""

from __future__ import annotations

import json
import re
import socket
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest
from openapi_spec_validator import validate

from kelpie.http import replies
from kelpie.job import LEGACY_KEYS
from tests.api import ApiServer, ApiUser
from tests.factories import job_body
from tests.system.contract import (
    REPORTS,
    TIME,
    UNKNOWN,
    UNKNOWN_IDS,
    assert_admin_only,
    lease,
    leased,
    operations,
    refused,
    report,
)
from tests.waiting import wait_until

# ---- credentials

ADMIN_ONLY = [
    ("DELETE", "/jobs"),
    ("POST", "/users"),
    ("POST", f"/users/{UNKNOWN}/token"),
    ("GET", "/users"),
    ("GET", f"/users/{UNKNOWN}/keys"),
    ("DELETE", f"/users/{UNKNOWN}/keys/{UNKNOWN}"),
    ("DELETE", f"/users/{UNKNOWN}"),
    ("DELETE", "/users"),
]


def test_every_route_but_those_of_health_is_401_without_credentials_and_403_with_an_unknown_key(
    api: ApiUser,
) -> None:
    routes = operations(api)
    for method, template in routes:
        path = re.sub(r"\{\w+\}", UNKNOWN, template)
        refused(api.request(method, path, anonymous=True), 401, "Unauthorized")
        refused(api.request(method, path, headers={"X-Kelpie-Key": ""}), 401, "Unauthorized")
        refused(api.request(method, path, key="klp_" + "0" * 40), 403, "Forbidden")
        refused(api.request(method, path, key="x" * 5000), 403, "Forbidden")
    assert len(routes) > 40


@pytest.mark.parametrize(("method", "path"), ADMIN_ONLY)
def test_what_only_the_admin_may_do_is_403_for_a_user_whatever_the_body(
    api: ApiUser, method: str, path: str
) -> None:
    assert_admin_only(api, method, path)


def test_credentials_that_are_not_known_here_count_as_none(api: ApiUser) -> None:
    salad = {"Salad-Api-Key": "k", "Salad-Organization": "o", "Salad-Project": "p"}
    refused(api.request("GET", "/jobs", anonymous=True, headers=salad), 401)
    refused(api.request("GET", "/jobs", anonymous=True, headers={"Authorization": "Bearer x.y.z"}), 401)


# ---- submit

OLD_KEYS = {
    *("id", "user_id", "status", "created", "started", "completed", "canceled", "failed", "heartbeat"),
    *("command", "arguments", "environment", "container_group_id", "max_failures", "heartbeat_interval"),
    *("webhook", "compression", "sync", "num_failures", "num_heartbeats", "machine_id"),
}
"""What every job has that clients of before know of, beside the six keys of the legacy form."""

NEW_KEYS = {
    *("attempt", "priority", "labels", "waiting_for", "webhook_events", "max_runtime_s", "not_before"),
    *("retry_backoff_s", "on_hold", "banned_nodes"),
}


def test_a_submitted_job_is_202_and_has_every_documented_key(api: ApiUser, group: str) -> None:
    sync = {
        "before": [{"bucket": "b", "prefix": "in", "local_path": "/in", "direction": "download"}],
        "during": [
            {"bucket": "b", "prefix": "ck/", "local_path": "/ck", "direction": "upload", "pattern": r"\.x$"}
        ],
    }
    body = job_body(
        container_group_id=group,
        arguments=["-c", "é"],
        environment={"A": "ü"},
        max_failures=5,
        heartbeat_interval=7,
        webhook="https://example.org/hook?x=1",
        webhook_events=["canceled"],
        compression=True,
        sync=sync,
        labels={"a": "b"},
        priority=7,
        max_runtime_s=60,
        not_before="2026-01-31T08:00:00.000Z",
        retry_backoff_s=1,
    )
    status, headers, job = api.request("POST", "/jobs", json=body)
    assert status == 202
    assert headers["Content-Type"] == "application/json"
    replies.JobReply.model_validate(job)
    assert TIME.match(job["created"])
    assert {name: job[name] for name in body if name != "sync"} == {
        k: v for k, v in body.items() if k != "sync"
    }
    assert job["sync"]["before"][0]["prefix"] == "in/"
    assert job["sync"]["during"] == sync["during"]
    assert not any(name in job for name in LEGACY_KEYS)
    assert (job["status"], job["user_id"]) == ("pending", api.user_id)
    assert (job["num_failures"], job["num_heartbeats"], job["attempt"]) == (0, 0, 0)
    not_yet = ("machine_id", "started", "completed", "canceled", "failed", "heartbeat")
    assert all(job[name] is None for name in not_yet)
    assert (job["on_hold"], job["banned_nodes"], job["waiting_for"]) == (False, [], None)
    assert set(job) == OLD_KEYS | NEW_KEYS
    # Why it waits is said when somebody looks.
    assert api.ok("GET", f"/jobs/{job['id']}") | {"waiting_for": None} == job


def test_the_legacy_form_comes_back_as_it_was_given(api: ApiUser, group: str) -> None:
    legacy = {
        **{"input_bucket": "a", "checkpoint_bucket": "b", "output_bucket": "c"},
        **{"input_prefix": "in/", "checkpoint_prefix": "", "output_prefix": "out/deep/"},
    }
    body = job_body(container_group_id=group) | legacy
    del body["sync"]
    job = api.submit(body)
    assert job["sync"] is None
    assert {name: job[name] for name in legacy} == legacy
    assert set(job) == OLD_KEYS | NEW_KEYS | set(legacy)


def test_without_the_optional_keys_a_job_has_their_defaults_null_means_absent_and_the_unknown_is_ignored(
    api: ApiUser, group: str
) -> None:
    defaults = {
        "arguments": [],
        "environment": {},
        "max_failures": 3,
        "heartbeat_interval": 30,
        "webhook": None,
        "webhook_events": None,
        "compression": False,
        "priority": 0,
        "labels": {},
        "max_runtime_s": None,
        "not_before": None,
        "retry_backoff_s": 0,
    }
    plain = {"command": "true", "container_group_id": group, "sync": {"before": None}}
    nulls = plain | dict.fromkeys([*defaults, *LEGACY_KEYS])
    for body in (plain, nulls, plain | {"colour": "blue", "id": UNKNOWN, "status": "completed"}):
        job = api.submit(body)
        assert {name: job[name] for name in defaults} == defaults
        assert (job["status"], job["id"] != UNKNOWN, "colour" in job) == ("pending", True, False)


def test_numbers_that_are_whole_are_integers_however_they_are_written(api: ApiUser, group: str) -> None:
    job = api.submit(job_body(container_group_id=group, max_failures=2.0, heartbeat_interval=6e1))
    assert (job["max_failures"], job["heartbeat_interval"]) == (2, 60)
    for wrong in (2.5, "2", True, 1e300):
        refused(api.request("POST", "/jobs", json=job_body(max_failures=wrong)), 400, "Invalid Input")


def test_a_byte_order_mark_in_front_of_json_is_ignored(api: ApiUser, group: str) -> None:
    body = "\ufeff" + json.dumps(job_body(container_group_id=group))
    job = api.ok("POST", "/jobs", body=body.encode())
    [again] = api.ok("POST", "/jobs/batch", body=f"\ufeff[{body[1:]}]".encode())
    assert api.ok("POST", f"/jobs/{job['id']}/completed", body="\ufeff" + json.dumps(report(group)))
    assert again["container_group_id"] == group
    for nothing in ("\ufeff", "\ufeff\ufeff" + body):
        refused(api.request("POST", "/jobs", body=nothing.encode()), 400, "Invalid Input")


def test_an_empty_pattern_is_as_good_as_none(api: ApiUser, group: str) -> None:
    entry = {"bucket": "b", "prefix": "", "local_path": "/x", "direction": "upload", "pattern": ""}
    assert api.submit(job_body(container_group_id=group, sync={"after": [entry]}))["sync"]["after"] == [entry]


@pytest.mark.parametrize(
    "content_type", [None, "application/json", "text/plain", "application/x-www-form-urlencoded"]
)
def test_a_body_needs_no_content_type(api: ApiUser, group: str, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    body = json.dumps(job_body(container_group_id=group)).encode()
    assert api.request("POST", "/jobs", body=body, headers=headers)[0] == 202


@pytest.mark.parametrize("path", ["/jobs", "/jobs/batch", *(f"/jobs/{UNKNOWN}/{name}" for name in REPORTS)])
@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"a": NaN', b"[" * 10_000])
def test_malformed_json_is_400(api: ApiUser, path: str, body: bytes) -> None:
    assert "not JSON" in refused(api.request("POST", path, body=body), 400, "Invalid Input")["message"]


@pytest.mark.parametrize("path", ["/jobs", *(f"/jobs/{UNKNOWN}/{name}" for name in REPORTS)])
@pytest.mark.parametrize("body", [[], "x", 5, True])
def test_a_body_that_is_no_object_is_400(api: ApiUser, path: str, body: Any) -> None:
    refused(api.request("POST", path, body=json.dumps(body).encode()), 400, "Invalid Input")


ENTRY = {"bucket": "b", "prefix": "p", "local_path": "/x"}


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"command": None}, "command"),
        ({"command": 5}, "command"),
        ({"arguments": [1]}, "arguments.0"),
        ({"environment": {"A": 1}}, "environment.A"),
        ({"container_group_id": None}, "container_group_id"),
        ({"max_failures": "3"}, "max_failures"),
        ({"max_failures": True}, "max_failures"),
        ({"heartbeat_interval": 0}, "heartbeat_interval"),
        ({"compression": "yes"}, "compression"),
        ({"webhook": "file:///etc/passwd"}, "webhook"),
        ({"sync": {"before": [{"bucket": "b"}]}}, "sync.before.0.prefix"),
        ({"sync": None}, ""),
        ({"input_bucket": "b"}, ""),
        ({"sync": None, **dict.fromkeys(LEGACY_KEYS[:5], "b")}, ""),
        ({"sync": {"before": [dict(ENTRY, direction="upload")]}}, "sync.before.0.direction"),
        ({"sync": {"during": [dict(ENTRY, direction="download")]}}, "sync.during.0.direction"),
        ({"sync": {"after": [dict(ENTRY, direction="download")]}}, "sync.after.0.direction"),
        ({"sync": {"after": [ENTRY]}}, "sync.after.0.direction"),
    ],
)
def test_a_wrong_value_is_400_and_named(api: ApiUser, wrong: dict[str, Any], path: str) -> None:
    body = refused(api.request("POST", "/jobs", json=job_body(**wrong)), 400, "Invalid Input")
    assert path in [error["path"] for error in body["errors"]]
    assert all(error["message"] for error in body["errors"])


def test_a_pattern_that_no_worker_could_run_is_400_at_submit(api: ApiUser) -> None:
    entry = {"bucket": "b", "prefix": "", "local_path": "/x", "direction": "upload", "pattern": "(?=x)"}
    body = refused(api.request("POST", "/jobs", json=job_body(sync={"after": [entry]})), 400)
    assert body["errors"][0]["path"] == "sync.after.0.pattern"
    assert "look-around" in body["errors"][0]["message"]


def test_a_body_beyond_the_limit_is_413(api: ApiUser) -> None:
    refused(api.request("POST", "/jobs", body=b'"' + b"x" * (16 * 1024 * 1024) + b'"'), 413)


def test_a_body_in_chunks_is_read_and_limited_too(api: ApiUser, group: str) -> None:
    def post(chunks: Iterator[bytes]) -> tuple[int, Any]:
        reply = api.server.http.request(
            "POST", f"{api.url}/jobs", body=chunks, headers={"X-Kelpie-Key": api.key}, timeout=40
        )
        return reply.status, reply.json()

    body = json.dumps(job_body(container_group_id=group)).encode()
    assert post(iter([body[:10], body[10:]]))[0] == 202
    status, refusal = post(b"x" * 2**20 for _ in range(17))
    assert (status, refusal["error"]) == (413, "Request Entity Too Large")


def test_a_batch_is_202_in_the_order_of_the_request(api: ApiUser, group: str) -> None:
    jobs = [job_body(container_group_id=group, arguments=[str(i)]) for i in range(1000)]
    status, _, answer = api.request("POST", "/jobs/batch", json=jobs)
    assert status == 202
    assert [job["arguments"] for job in answer] == [job["arguments"] for job in jobs]
    assert len({job["id"] for job in answer}) == 1000


@pytest.mark.parametrize("count", [0, 1001])
def test_a_batch_of_none_or_more_than_a_thousand_is_400_and_queues_nothing(
    api: ApiUser, group: str, count: int
) -> None:
    refused(api.request("POST", "/jobs/batch", json=[job_body(container_group_id=group)] * count), 400)
    assert api.ok("GET", "/jobs")["_count"] == 0


def test_one_bad_job_of_a_batch_is_400_with_its_index_and_queues_nothing(api: ApiUser, group: str) -> None:
    jobs = [job_body(container_group_id=group) for _ in range(5)]
    jobs[3]["max_failures"] = "3"
    body = refused(api.request("POST", "/jobs/batch", json=jobs), 400, "Invalid Input")
    assert body["index"] == 3
    assert [error["path"] for error in body["errors"]] == ["3.max_failures"]
    assert api.ok("GET", "/jobs")["_count"] == 0


def test_a_batch_that_is_no_array_is_400(api: ApiUser) -> None:
    refused(api.request("POST", "/jobs/batch", json=job_body()), 400, "Invalid Input")


# ---- list, get


def test_the_list_pages_filters_and_orders(api: ApiUser, group: str) -> None:
    ids = [api.submit(job_body(container_group_id=group))["id"] for _ in range(5)]
    elsewhere = api.submit(job_body(container_group_id=f"{group}-b"))["id"]
    running = lease(api, group)
    assert running is not None

    def listed(query: str) -> list[str]:
        page = api.ok("GET", f"/jobs?{query}")
        replies.JobPageReply.model_validate(page)
        assert page["_count"] == len(page["jobs"])
        return [job["id"] for job in page["jobs"]]

    assert listed("asc=true") == [*ids, elsewhere]
    assert listed("") == [elsewhere, *reversed(ids)]
    assert listed("asc=false&page_size=2&page=2") == [ids[3], ids[2]]
    assert listed("page_size=2&page=9") == []
    assert listed("page=0&page_size=1") == listed("page=-5&page_size=1") == [elsewhere]
    assert listed(f"container_group_id={group}&asc=true") == ids
    assert listed("status=running") == [running["id"]]
    assert listed(f"status=pending&container_group_id={group}&asc=true") == ids[1:]
    assert listed("status=failed") == []


@pytest.mark.parametrize(
    "query",
    [
        "status=lost",
        "page_size=0",
        "page_size=1001",
        f"page_size={10**30}",
        "page=x",
        f"page={10**30}",
        "asc=2",
    ],
)
def test_a_wrong_query_is_400(api: ApiUser, query: str) -> None:
    body = refused(api.request("GET", f"/jobs?{query}"), 400, "Invalid Input")
    assert body["errors"][0]["path"] == query.split("=")[0]


def test_an_empty_parameter_is_an_absent_one(api: ApiUser, group: str) -> None:
    job = api.submit(job_body(container_group_id=group))
    everything = api.ok("GET", "/jobs")
    for name in ("status", "container_group_id", "page_size", "page", "asc", "cursor", "label", "q"):
        assert api.ok("GET", f"/jobs?{name}=") == everything, name
    assert api.ok("GET", "/jobs?status=&container_group_id=&page_size=&page=&asc=") == everything
    assert api.ok("GET", "/jobs?status=&status=running")["jobs"] == []
    assert api.ok("GET", f"/jobs/{job['id']}?expand=") == everything["jobs"][0]
    assert api.ok("DELETE", f"/jobs/{job['id']}?purge=") == {"message": "Job canceled"}
    assert api.ok("GET", f"/work?machine_id=n&container_group_id={group}&wait=") == []


@pytest.mark.parametrize("job_id", UNKNOWN_IDS)
def test_an_unknown_job_is_404_for_every_call(api: ApiUser, job_id: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("DELETE", "?purge=true")):
        refused(api.request(method, f"/jobs/{job_id}{path}"), 404, "Not Found")
    for name in REPORTS:
        refused(api.request("POST", f"/jobs/{job_id}/{name}", json=report("g")), 404, "Not Found")


def test_another_users_job_is_404_for_every_call_and_stays_as_it_is(
    api: ApiUser, other: ApiUser, group: str
) -> None:
    job = leased(api, group)
    for method, path in (("GET", ""), ("DELETE", ""), ("DELETE", "?purge=true")):
        refused(other.request(method, f"/jobs/{job['id']}{path}"), 404, "Not Found")
    for name in REPORTS:
        stolen = report(group, lease=job["lease"])
        refused(other.request("POST", f"/jobs/{job['id']}/{name}", json=stolen), 404, "Not Found")
    assert other.ok("GET", "/jobs")["jobs"] == []
    assert api.job(job["id"])["status"] == "running"


def test_the_admin_sees_and_cancels_the_jobs_of_all(api: ApiUser, admin: ApiUser, group: str) -> None:
    job = api.submit(job_body(container_group_id=group))
    assert admin.ok("GET", f"/jobs/{job['id']}") == api.ok("GET", f"/jobs/{job['id']}")
    assert [found["id"] for found in admin.ok("GET", f"/jobs?container_group_id={group}")["jobs"]] == [
        job["id"]
    ]
    admin.ok("DELETE", f"/jobs/{job['id']}")
    assert api.job(job["id"])["status"] == "canceled"


def test_expand_adds_the_attempts_oldest_first(api: ApiUser, group: str) -> None:
    job = leased(api, group, "node-1")
    api.ok("POST", f"/jobs/{job['id']}/failed", json=report(group, exit_code=3, reason="boom"))
    assert lease(api, group, "node-2") is not None
    found = api.job(job["id"])
    replies.JobReply.model_validate(found)
    first, second = found["attempts"]
    assert (first["attempt"], first["machine_id"], first["outcome"]) == (1, "node-1", "app_failed")
    assert (first["exit_code"], first["reason"]) == (3, "boom")
    assert (second["attempt"], second["machine_id"], second["end"]) == (2, "node-2", None)
    assert "attempts" not in api.ok("GET", f"/jobs/{job['id']}")
    refused(api.request("GET", f"/jobs/{job['id']}?expand=everything"), 400)


def test_how_a_job_ended_and_when_stands_under_the_name_of_its_status(api: ApiUser, group: str) -> None:
    for end in ("completed", "failed", "canceled"):
        job = leased(api, group, "node-of-" + end, max_failures=1)
        call = ("DELETE", f"/jobs/{job['id']}") if end == "canceled" else ("POST", f"/jobs/{job['id']}/{end}")
        api.ok(*call, json=report(group, "node-of-" + end))
        ended = api.job(job["id"])
        assert ended["status"] == end
        times = {name: ended[name] for name in ("completed", "failed", "canceled")}
        assert [name for name, time in times.items() if time is not None] == [end]
        assert ended["created"] <= ended["started"] <= ended[end]
        assert TIME.match(ended[end])


# ---- cancel, delete


def test_cancel_is_202_and_harmless_when_repeated(api: ApiUser, group: str) -> None:
    job = api.submit(job_body(container_group_id=group))
    for _ in range(2):
        status, _, body = api.request("DELETE", f"/jobs/{job['id']}")
        assert (status, body) == (202, {"message": "Job canceled"})
    assert api.job(job["id"])["status"] == "canceled"
    assert lease(api, group) is None


@pytest.mark.parametrize("end", ["completed", "failed"])
def test_cancel_of_an_ended_job_is_409_and_changes_nothing(api: ApiUser, group: str, end: str) -> None:
    job = leased(api, group, max_failures=1)
    api.ok("POST", f"/jobs/{job['id']}/{end}", json=report(group))
    refused(api.request("DELETE", f"/jobs/{job['id']}"), 409, "Conflict")
    assert api.job(job["id"])["status"] == end


def test_purge_is_200_and_then_the_job_is_unknown(api: ApiUser, group: str) -> None:
    job = leased(api, group)
    status, _, _ = api.request("DELETE", f"/jobs/{job['id']}?purge=true")
    assert status == 200
    refused(api.request("GET", f"/jobs/{job['id']}"), 404)
    refused(api.request("POST", f"/jobs/{job['id']}/completed", json=report(group, lease=job["lease"])), 404)


def test_clearing_a_group_removes_pending_jobs_and_cancels_running_ones(
    api: ApiUser, other: ApiUser, group: str
) -> None:
    running = leased(api, group)
    pending = [api.submit(job_body(container_group_id=group))["id"] for _ in range(2)]
    theirs = other.submit(job_body(container_group_id=group))
    assert api.request("DELETE", f"/jobs/container-groups/{group}")[::2] == (200, {"count": 3})
    assert api.job(running["id"])["status"] == "canceled"
    for job_id in pending:
        refused(api.request("GET", f"/jobs/{job_id}"), 404)
    assert other.job(theirs["id"])["status"] == "pending"
    assert api.ok("DELETE", f"/jobs/container-groups/{group}") == {"count": 0}


# ---- work


def test_work_is_empty_or_one_job_that_is_running_now(api: ApiUser, group: str) -> None:
    assert lease(api, group) is None
    submitted = api.submit(job_body(container_group_id=group))
    job = lease(api, group, "node-7")
    assert job is not None
    replies.WorkListReply.model_validate([job])
    assert (job["id"], job["status"], job["machine_id"], job["attempt"]) == (
        submitted["id"],
        "running",
        "node-7",
        1,
    )
    assert all(TIME.match(job[name]) for name in ("started", "heartbeat", "lease_expires"))
    assert set(job) == OLD_KEYS | NEW_KEYS | {"lease", "lease_expires", "fence"}
    assert lease(api, group, "node-8") is None


def test_stale_running_jobs_come_before_pending_ones_and_the_oldest_first(api: ApiUser, group: str) -> None:
    oldest, second, third = (api.submit(job_body(container_group_id=group))["id"] for _ in range(3))
    api.ok("POST", f"/jobs/{oldest}/hold")
    stale = lease(api, group)
    assert stale is not None
    assert stale["id"] == second
    api.ok("POST", f"/jobs/{oldest}/resume")
    api.ok("POST", f"/jobs/{second}/released", json=report(group))
    polls = [lease(api, group, f"node-{number}") for number in range(3)]
    assert [job and job["id"] for job in polls] == [second, oldest, third]


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("container_group_id=g", "machine_id"),
        ("machine_id=n", "container_group_id"),
        ("machine_id=&container_group_id=g", "machine_id"),
        ("machine_id=n&container_group_id=", "container_group_id"),
        (f"machine_id={'x' * 129}&container_group_id=g", "machine_id"),
        (f"machine_id=n&container_group_id={'x' * 257}", "container_group_id"),
        ("machine_id=a%0Ab&container_group_id=g", "machine_id"),
        ("machine_id=n&container_group_id=g&wait=21", "wait"),
        ("machine_id=n&container_group_id=g&wait=-1", "wait"),
        ("machine_id=n&container_group_id=g&wait=nan", "wait"),
    ],
)
def test_work_for_nobody_in_particular_is_400(api: ApiUser, query: str, path: str) -> None:
    assert path in [error["path"] for error in refused(api.request("GET", f"/work?{query}"), 400)["errors"]]


def test_a_long_poll_is_answered_when_a_job_comes(api: ApiUser, group: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(api.ok, "GET", f"/work?machine_id=n&container_group_id={group}&wait=20")
        job = api.submit(job_body(container_group_id=group))
        assert [got["id"] for got in poll.result(timeout=15)] == [job["id"]]


def test_a_long_poll_without_a_job_is_an_empty_list(api: ApiUser, group: str) -> None:
    assert api.ok("GET", f"/work?machine_id=n&container_group_id={group}&wait=0.2") == []


def test_a_poll_repeated_after_a_lost_answer_gives_the_same_lease(api: ApiUser, group: str) -> None:
    for _ in range(2):
        api.submit(job_body(container_group_id=group))
    same = {"Idempotency-Key": uuid.uuid4().hex}
    first, again = (lease(api, group, headers=same) for _ in range(2))
    assert first is not None
    assert again is not None
    assert (first["id"], first["lease"], first["attempt"]) == (again["id"], again["lease"], again["attempt"])
    other_poll = lease(api, group, headers={"Idempotency-Key": uuid.uuid4().hex})
    assert other_poll is not None
    assert other_poll["id"] != first["id"]


@pytest.mark.parametrize("key", ["short", "x" * 129, "a b" * 10])
def test_a_wrong_idempotency_key_is_400(api: ApiUser, group: str, key: str) -> None:
    path = f"/work?machine_id=n&container_group_id={group}"
    refused(api.request("GET", path, headers={"Idempotency-Key": key}), 400, "Invalid Input")


def test_a_poll_sees_the_callers_own_jobs_only(api: ApiUser, other: ApiUser, group: str) -> None:
    api.submit(job_body(container_group_id=group))
    assert lease(other, group) is None


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize(
    "wrong",
    [
        {"machine_id": None},
        {"machine_id": ""},
        {"machine_id": 5},
        {"machine_id": "x" * 129},
        {"container_group_id": None},
        {"container_group_id": ["g"]},
        {"lease": 5},
    ],
)
def test_a_report_by_nobody_in_particular_is_400(
    api: ApiUser, group: str, name: str, wrong: dict[str, Any]
) -> None:
    job = leased(api, group)
    body = refused(api.request("POST", f"/jobs/{job['id']}/{name}", json=report(group) | wrong), 400)
    assert [error["path"] for error in body["errors"]] == list(wrong)


@pytest.mark.parametrize("with_lease", [True, False])
def test_a_heartbeat_is_200_and_renews_the_lease(api: ApiUser, group: str, with_lease: bool) -> None:
    job = leased(api, group)
    body = report(group, lease=job["lease"]) if with_lease else report(group)
    status, _, answer = api.request("POST", f"/jobs/{job['id']}/heartbeat", json=body)
    assert (status, answer["status"], answer["reason"]) == (200, "running", None)
    assert answer["lease_expires"] >= job["lease_expires"]
    replies.HeartbeatReply.model_validate(answer)


def test_what_a_node_has_to_upload_is_told_with_its_heartbeats(api: ApiUser, group: str) -> None:
    job = leased(api, group)
    assert "upload_backlog" not in api.ok("GET", f"/jobs/{job['id']}")
    backlog = {"files": 3, "bytes": 4000, "oldest_s": 2.5}
    api.ok("POST", f"/jobs/{job['id']}/heartbeat", json=report(group, upload_backlog=backlog))
    assert api.ok("GET", f"/jobs/{job['id']}")["upload_backlog"] == backlog


def test_what_a_command_says_of_its_progress_is_told_with_heartbeats(api: ApiUser, group: str) -> None:
    job = leased(api, group)
    assert "progress" not in api.ok("GET", f"/jobs/{job['id']}")
    said = {"fraction": 0.25, "step": 5, "total": 20, "metrics": {"loss": 0.5}}
    api.ok("POST", f"/jobs/{job['id']}/heartbeat", json=report(group, progress=said))
    told = api.ok("GET", f"/jobs/{job['id']}")["progress"]
    replies.ProgressReply.model_validate(told)
    assert told == told | said | {"attempt": 1, "checkpoint": None}


def test_expand_adds_what_nodes_say_they_have_moved(api: ApiUser, group: str) -> None:
    job = leased(api, group)
    path = f"/jobs/{job['id']}?expand=transfers"
    assert api.ok("GET", path)["transfers"] is None
    said = {"during": [{"state": "moving", "files": 2, "bytes": 90, "waiting_files": 1, "last_age_s": 1.5}]}
    api.ok("POST", f"/jobs/{job['id']}/heartbeat", json=report(group, transfers=said))
    told = api.ok("GET", path)["transfers"]
    replies.TransfersReply.model_validate(told)
    assert (told["attempt"], told["before"], told["after"]) == (1, [], [])
    assert told["during"][0] == told["during"][0] | {"state": "moving", "files": 2, "unchanged": 0}
    wrong = report(group, transfers={"during": [{"files": -1}]})
    refused(api.request("POST", f"/jobs/{job['id']}/heartbeat", json=wrong), 400)
    assert "transfers" not in api.ok("GET", f"/jobs/{job['id']}")


def test_expand_adds_how_progress_was_over_two_attempts_oldest_first(
    api: ApiUser, other: ApiUser, group: str
) -> None:
    job = leased(api, group, "node-1")
    path = f"/jobs/{job['id']}?expand=progress_history"
    assert api.ok("GET", path)["progress_history"] == []
    said: dict[str, Any] = {"fraction": 0.5, "step": 5, "metrics": {"<b>loss</b>": 0.25}}
    beat = report(group, "node-1", progress=said | {"total": 10})
    api.ok("POST", f"/jobs/{job['id']}/heartbeat", json=beat)
    api.ok("POST", f"/jobs/{job['id']}/failed", json=report(group, "node-1"))
    lease(api, group, "node-2")
    api.ok("POST", f"/jobs/{job['id']}/heartbeat", json=report(group, "node-2", progress={"fraction": 0.25}))
    found = api.ok("GET", path)
    replies.JobReply.model_validate(found)
    first, second = found["progress_history"]
    assert first == {"time": first["time"], "attempt": 1} | said
    assert second == {"time": second["time"], "attempt": 2, "fraction": 0.25, "step": None, "metrics": {}}
    assert job["heartbeat"] <= first["time"] < second["time"]
    assert {"attempts", "progress_history"} & api.ok("GET", f"/jobs/{job['id']}").keys() == set()
    refused(other.request("GET", path), 404, "Not Found")


def test_heartbeats_are_counted_once_an_interval_and_the_last_one_is_told(api: ApiUser, group: str) -> None:
    job = leased(api, group, heartbeat_interval=1)
    path = f"/jobs/{job['id']}"

    def beaten() -> dict[str, Any] | None:
        api.ok("POST", f"{path}/heartbeat", json=report(group))
        found: dict[str, Any] = api.ok("GET", path)
        return found if found["num_heartbeats"] else None

    found = wait_until(beaten, "an interval has passed")
    assert found["num_heartbeats"] == 1
    assert TIME.match(found["heartbeat"])
    assert found["heartbeat"] > job["heartbeat"]


def test_a_heartbeat_of_a_node_that_does_not_hold_the_job_says_canceled_and_why(
    api: ApiUser, group: str
) -> None:
    job = leased(api, group, "node-1")
    path = f"/jobs/{job['id']}/heartbeat"

    def heartbeat(**who: Any) -> tuple[str, str | None]:
        status, _, answer = api.request("POST", path, json=report(group, **who))
        assert status == 200
        return answer["status"], answer["reason"]

    assert heartbeat(machine_id="node-2") == ("canceled", "not_holder")
    assert heartbeat(machine_id="node-1", lease="wrong") == ("canceled", "not_holder")
    api.ok("POST", f"/jobs/{job['id']}/released", json=report(group))
    assert lease(api, group, "node-2") is not None
    assert heartbeat(machine_id="node-1", lease=job["lease"]) == ("canceled", "superseded")
    assert heartbeat(machine_id="node-1")[0] == "canceled"
    api.ok("DELETE", f"/jobs/{job['id']}")
    assert heartbeat(machine_id="node-2") == ("canceled", "canceled")


@pytest.mark.parametrize("with_lease", [True, False])
def test_completed_is_200_and_harmless_when_repeated(api: ApiUser, group: str, with_lease: bool) -> None:
    job = leased(api, group)
    body = report(group, lease=job["lease"]) if with_lease else report(group)
    for _ in range(2):
        status, _, answer = api.request("POST", f"/jobs/{job['id']}/completed", json=body)
        assert (status, answer) == (200, {"message": "Completed reported"})
    done = api.job(job["id"])
    assert done["status"] == "completed"
    assert TIME.match(done["completed"])


@pytest.mark.parametrize("with_lease", [True, False])
def test_failed_is_202_and_harmless_when_repeated(api: ApiUser, group: str, with_lease: bool) -> None:
    job = leased(api, group)
    body = report(group, lease=job["lease"]) if with_lease else report(group)
    for _ in range(2):
        status, _, answer = api.request("POST", f"/jobs/{job['id']}/failed", json=body | {"exit_code": 1})
        assert status == 202
        replies.FailureReply.model_validate(answer)
        assert answer["message"] == "Failure reported"
        assert (answer["num_failures"], answer["node_bans"], answer["reallocate"]) == (1, 1, False)
    again = api.job(job["id"])
    assert (again["status"], again["num_failures"]) == ("running", 1)
    assert again["waiting_for"]


def test_the_last_failure_ends_the_job(api: ApiUser, group: str) -> None:
    job = api.submit(job_body(container_group_id=group, max_failures=2))
    for node in ("node-1", "node-2"):
        assert lease(api, group, node) is not None
        assert lease(api, group, node) is None
        api.ok("POST", f"/jobs/{job['id']}/failed", json=report(group, node, outcome="sync_failed"))
    ended = api.job(job["id"])
    assert (ended["status"], ended["num_failures"]) == ("failed", 2)
    assert [attempt["outcome"] for attempt in ended["attempts"]] == ["sync_failed"] * 2


def test_the_fifth_ban_of_a_node_tells_it_to_reallocate(api: ApiUser, group: str) -> None:
    answers = []
    for _ in range(5):
        job = leased(api, group)
        answers.append(api.ok("POST", f"/jobs/{job['id']}/failed", json=report(group)))
    assert [answer["node_bans"] for answer in answers] == [1, 2, 3, 4, 5]
    assert [answer["reallocate"] for answer in answers] == [False] * 4 + [True]


@pytest.mark.parametrize("wrong", [{"exit_code": "1"}, {"reason": "x" * 2001}, {"outcome": "completed"}])
def test_a_failure_with_wrong_details_is_400_and_counts_nothing(
    api: ApiUser, group: str, wrong: dict[str, Any]
) -> None:
    job = leased(api, group)
    refused(api.request("POST", f"/jobs/{job['id']}/failed", json=report(group) | wrong), 400)
    assert api.job(job["id"])["num_failures"] == 0


def test_released_is_200_counts_nothing_and_frees_the_job_at_once(api: ApiUser, group: str) -> None:
    job = leased(api, group, "node-1")
    status, _, _ = api.request("POST", f"/jobs/{job['id']}/released", json=report(group, lease=job["lease"]))
    assert status == 200
    found = api.job(job["id"])
    assert (found["status"], found["num_failures"]) == ("running", 0)
    again = lease(api, group, "node-1")
    assert again is not None
    assert (again["id"], again["attempt"]) == (job["id"], 2)


@pytest.mark.parametrize("name", ["completed", "failed", "released"])
def test_a_report_by_another_node_is_409_with_the_reason(api: ApiUser, group: str, name: str) -> None:
    job = leased(api, group, "node-1")
    path = f"/jobs/{job['id']}/{name}"
    body = refused(api.request("POST", path, json=report(group, "node-2")), 409, "Lease Lost")
    assert body["reason"] == "not_holder"
    # the lease alone is judged when it is shown, whatever the name
    refused(api.request("POST", path, json=report(group, "node-1", lease="wrong")), 409)
    assert api.request("POST", path, json=report(group, "node-2", lease=job["lease"]))[0] in {200, 202}


@pytest.mark.parametrize("name", ["completed", "failed", "released"])
def test_a_report_of_an_older_attempt_is_409_superseded(api: ApiUser, group: str, name: str) -> None:
    job = leased(api, group, "node-1")
    api.ok("POST", f"/jobs/{job['id']}/released", json=report(group))
    assert lease(api, group, "node-2") is not None
    stale = report(group, "node-1", lease=job["lease"])
    body = refused(api.request("POST", f"/jobs/{job['id']}/{name}", json=stale), 409, "Lease Lost")
    assert body["reason"] == "superseded"
    assert api.job(job["id"])["status"] == "running"


def test_the_first_outcome_stands(api: ApiUser, group: str) -> None:
    done, failed = leased(api, group), leased(api, group, "node-2")
    api.ok("POST", f"/jobs/{done['id']}/completed", json=report(group, lease=done["lease"]))
    refused(api.request("POST", f"/jobs/{done['id']}/failed", json=report(group, lease=done["lease"])), 409)
    api.ok("POST", f"/jobs/{failed['id']}/failed", json=report(group, "node-2", lease=failed["lease"]))
    late = report(group, "node-2", lease=failed["lease"])
    assert (
        refused(api.request("POST", f"/jobs/{failed['id']}/completed", json=late), 409)["reason"] == "closed"
    )
    assert (api.job(done["id"])["status"], api.job(failed["id"])["status"]) == ("completed", "running")


@pytest.mark.parametrize("name", ["completed", "failed", "released"])
def test_a_report_after_cancel_is_409_canceled(api: ApiUser, group: str, name: str) -> None:
    job = leased(api, group)
    api.ok("DELETE", f"/jobs/{job['id']}")
    body = refused(
        api.request("POST", f"/jobs/{job['id']}/{name}", json=report(group, lease=job["lease"])), 409
    )
    assert body["reason"] == "canceled"
    assert api.job(job["id"])["status"] == "canceled"


def test_a_user_may_complete_his_pending_job_by_hand(api: ApiUser, group: str) -> None:
    job = api.submit(job_body(container_group_id=group))
    assert api.request("POST", f"/jobs/{job['id']}/completed", json=report(group))[0] == 200
    assert api.job(job["id"])["status"] == "completed"
    assert lease(api, group) is None


def test_a_user_may_fail_his_pending_job_by_hand(api: ApiUser, group: str) -> None:
    job = api.submit(job_body(container_group_id=group, max_failures=2))
    for status in ("pending", "failed"):
        assert api.request("POST", f"/jobs/{job['id']}/failed", json=report(group))[0] == 202
        assert api.job(job["id"])["status"] == status


def test_an_old_worker_without_lease_or_content_type_lives_its_whole_life(api: ApiUser, group: str) -> None:
    api.submit(job_body(container_group_id=group))
    [job] = api.ok("GET", f"/work/?machine_id=old&container_group_id={group}")
    body = json.dumps({"machine_id": "old", "container_group_id": group})
    assert api.ok("POST", f"/jobs/{job['id']}/heartbeat/", body=body)["status"] == "running"
    assert api.ok("POST", f"/jobs/{job['id']}/completed/", body=body) == {"message": "Completed reported"}
    assert api.job(job["id"])["status"] == "completed"


# ---- users


def test_the_admin_makes_users_and_keys(api_server: ApiServer, admin: ApiUser) -> None:
    name = f"ada-{uuid.uuid4().hex[:6]}"
    status, _, user = admin.request("POST", "/users", json={"username": name})
    assert (status, set(user)) == (201, {"id", "username", "created"})
    assert (user["username"], bool(TIME.match(user["created"]))) == (name, True)
    refused(admin.request("POST", "/users", json={"username": name}), 400, "Invalid Input")
    names = {"org_name": "o", "project_name": "p"}
    status, _, made = admin.request("POST", f"/users/{user['id']}/token", json=names)
    assert status == 201
    assert list(made) == ["token"]
    me = ApiUser(api_server, made["token"]).ok("GET", "/users/me")
    replies.CallerReply.model_validate(me)
    assert (me["id"], me["username"], me["org_name"], me["project_name"]) == (user["id"], name, "o", "p")
    assert me["is_admin"] is False
    assert me["webhook_secret"].startswith("whsec_")
    own = admin.ok("GET", "/users/me")
    assert (own["id"], own["is_admin"]) == ("00000000-0000-0000-0000-000000000000", True)


@pytest.mark.parametrize(
    "body", [{}, {"username": ""}, {"username": 5}, {"username": "x" * 129}, {"username": "a\n"}]
)
def test_a_wrong_user_is_400(admin: ApiUser, body: dict[str, Any]) -> None:
    assert refused(admin.request("POST", "/users", json=body), 400)["errors"][0]["path"] == "username"


def test_a_key_for_nobody_is_404_and_without_names_400(admin: ApiUser, api: ApiUser) -> None:
    names = {"org_name": "o", "project_name": "p"}
    refused(admin.request("POST", f"/users/{uuid.uuid4()}/token", json=names), 404)
    refused(admin.request("POST", "/users/nonsense/token", json=names), 404)
    refused(admin.request("POST", f"/users/{api.user_id}/token", json={"org_name": "o"}), 400)


# ---- what is common to all


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/jobs/a/b/c", "/scaling-rule", "/jobs//x//", "/job", "/docs/nothing", "/static/nothing"],
)
def test_an_unknown_route_is_404_as_json(api: ApiUser, path: str) -> None:
    refused(api.request("GET", path), 404, "Route Not Found")
    refused(api.request("GET", path, anonymous=True), 404, "Route Not Found")


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/jobs"), ("POST", "/work"), ("PATCH", "/jobs/x"), ("PUT", "/users")]
)
def test_a_method_that_a_path_does_not_know_is_405_as_json(api: ApiUser, method: str, path: str) -> None:
    refused(api.request(method, path), 405)
    assert api.request(method, path)[1]["Allow"]


def test_a_head_that_is_too_long_is_refused_as_json(api: ApiUser) -> None:
    refused(api.request("GET", "/jobs?" + "x" * 10_000), 414)
    refused(api.request("GET", "/jobs", headers={"X-Long": "x" * 10_000}), 431)


@pytest.mark.parametrize("path", ["/jobs/", "/users/me/", "/healthz/", "/jobs/?page_size=1"])
def test_a_trailing_slash_is_accepted(api: ApiUser, path: str) -> None:
    assert api.request("GET", path)[0] == 200


@pytest.mark.parametrize("path", ["/jobs", "/work", f"/jobs/{UNKNOWN}/heartbeat"])
def test_browsers_may_ask_first(api: ApiUser, path: str) -> None:
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    status, headers, _ = api.request("OPTIONS", path, anonymous=True, headers=asked)
    assert status == 204
    assert "Content-Type" not in headers
    assert headers["Access-Control-Allow-Origin"] == "*"
    methods = headers["Access-Control-Allow-Methods"].split(", ")
    assert methods == ["GET", "POST", "PATCH", "DELETE"]
    assert "X-Kelpie-Key" in headers["Access-Control-Allow-Headers"]


def test_browsers_may_read_answers_and_refusals(api: ApiUser) -> None:
    for anonymous in (True, False):
        _, headers, _ = api.request(
            "GET", "/jobs", anonymous=anonymous, headers={"Origin": "https://a.example"}
        )
        assert headers["Access-Control-Allow-Origin"] == "*"


def test_answers_are_kept_by_no_cache_and_guessed_as_nothing_else(api: ApiUser) -> None:
    _, headers, _ = api.request("GET", "/jobs")
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Request-Id"]


def test_connections_are_kept_alive(api: ApiUser) -> None:
    import urllib3

    with urllib3.HTTPConnectionPool("127.0.0.1", api.server.port, maxsize=1, block=True) as pool:
        for _ in range(3):
            assert pool.request("GET", "/healthz").status == 200
        assert pool.num_connections == 1


def test_health_needs_no_credentials(api: ApiUser) -> None:
    for path in ("/healthz", "/readyz"):
        assert api.request("GET", path, anonymous=True)[::2] == (200, {"status": "ok"})


def test_the_schema_is_valid_openapi_and_describes_every_route(api: ApiUser) -> None:
    status, headers, schema = api.request("GET", "/openapi.json", anonymous=True)
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert schema["openapi"].startswith("3.1")
    validate(schema)
    described = {(method.upper(), path) for path, item in schema["paths"].items() for method in item}
    assert described == {
        ("POST", "/jobs"),
        ("GET", "/jobs"),
        ("DELETE", "/jobs"),
        ("POST", "/jobs/batch"),
        ("GET", "/jobs/{job_id}"),
        ("DELETE", "/jobs/{job_id}"),
        ("DELETE", "/jobs/container-groups/{container_group_id}"),
        ("GET", "/work"),
        *(("POST", f"/jobs/{{job_id}}/{name}") for name in REPORTS),
        *(
            ("POST", f"/jobs/{{job_id}}/{name}")
            for name in ("hold", "resume", "requeue", "unban", "prioritize")
        ),
        ("POST", "/users"),
        ("DELETE", "/users"),
        ("GET", "/users"),
        ("DELETE", "/users/{user_id}"),
        ("POST", "/users/{user_id}/token"),
        ("GET", "/users/{user_id}/keys"),
        ("DELETE", "/users/{user_id}/keys/{key_id}"),
        ("GET", "/users/me"),
        *((method, "/scaling-rules") for method in ("POST", "GET", "DELETE")),
        *((method, "/scaling-rules/{rule_id}") for method in ("GET", "PATCH", "DELETE")),
        ("GET", "/scaling-rules/{rule_id}/decision"),
        ("GET", "/scaling-rules/{rule_id}/decisions"),
        ("GET", "/container-groups"),
        *((method, "/container-groups/{group_id}") for method in ("PUT", "GET", "DELETE")),
        ("PUT", "/container-groups/{group_id}/nodes"),
        ("GET", "/users/me/keys"),
        ("POST", "/users/me/keys"),
        ("DELETE", "/users/me/keys/{key_id}"),
        ("POST", "/users/me/webhook-secret/rotate"),
        ("GET", "/events"),
        ("GET", "/jobs/{job_id}/events"),
        ("GET", "/jobs/{job_id}/logs"),
        ("POST", "/jobs/{job_id}/logs"),
        ("POST", "/nodes/drain"),
        ("POST", "/nodes/resume"),
        ("GET", "/nodes/drained"),
        ("GET", "/webhooks/deliveries"),
        ("GET", "/webhooks/deliveries/{delivery_id}"),
        ("POST", "/webhooks/deliveries/{delivery_id}/replay"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
    }


@pytest.mark.parametrize("path", ["/", "/docs", "/docs/"])
def test_pages_load_nothing_from_elsewhere_and_run_nothing_inline(api: ApiUser, path: str) -> None:
    status, headers, html = api.request("GET", path, anonymous=True)
    assert status == 200
    assert headers["Content-Type"].startswith("text/html")
    loaded = re.findall(r'(?:src|href|data-openapi)="([^"]*)"', html)
    assert loaded
    for url in loaded:
        assert re.match(r"/[^/]|/$", url), url
        assert api.request("GET", url, anonymous=True)[0] == 200
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", html)
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"


def test_the_landing_page_names_the_version_and_the_first_commands(api: ApiUser) -> None:
    import kelpie

    _, _, html = api.request("GET", "/", anonymous=True)
    assert kelpie.__version__ in html
    assert "kelpie submit" in html
    assert api.url in html


# ---- the admin's great broom, on a server of its own


@pytest.fixture
def own_server(valkey: Any, tmp_path: Any) -> Any:
    """An API whose jobs, users and end are this test's alone."""
    with ApiServer(valkey.url, tmp_path) as server:
        yield server


def test_the_admin_deletes_all_jobs_and_all_users_but_himself(own_server: ApiServer) -> None:
    user, admin = own_server.new_user(), own_server.admin()
    job = user.submit(job_body())
    assert admin.request("DELETE", "/jobs")[0] == 204
    refused(user.request("GET", f"/jobs/{job['id']}"), 404)
    assert admin.request("DELETE", "/users")[0] == 204
    refused(user.request("GET", "/users/me"), 403)
    assert admin.ok("GET", "/users/me")["is_admin"]


def test_a_stopping_api_answers_open_long_polls_at_once_and_ends_in_good_order(own_server: ApiServer) -> None:
    user = own_server.new_user()
    with ThreadPoolExecutor(4) as pool:
        polls = [
            pool.submit(user.request, "GET", f"/work?machine_id=n{i}&container_group_id=g&wait=20")
            for i in range(4)
        ]
        wait_until(lambda: all(poll.running() for poll in polls), "the polls are under way")
        own_server.stop()
        assert [poll.result()[::2] for poll in polls] == [(200, [])] * 4


def test_a_poll_whose_client_has_gone_leases_nothing(api: ApiUser, group: str) -> None:
    parts = urlsplit(api.url)
    assert parts.hostname
    path = f"/work?machine_id=dead&container_group_id={group}&wait=20"
    with socket.create_connection((parts.hostname, parts.port or 80)) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nX-Kelpie-Key: {api.key}\r\n\r\n".encode())
        client.settimeout(1)
        with pytest.raises(TimeoutError):  # it waits
            client.recv(1)
    job = api.submit(job_body(container_group_id=group))
    [leased] = api.ok("GET", f"/work?machine_id=alive&container_group_id={group}&wait=5")
    assert (leased["id"], leased["machine_id"], leased["attempt"]) == (job["id"], "alive", 1)


def test_a_head_request_leases_nothing(api: ApiUser, group: str) -> None:
    job = api.submit(job_body(container_group_id=group))
    status, _, _ = api.request("HEAD", f"/work?machine_id=probe&container_group_id={group}")
    assert status == 405
    assert api.job(job["id"])["status"] == "pending"


def test_a_used_up_request_id_never_speaks_for_two_attempts(api: ApiUser, group: str) -> None:
    job = api.submit(job_body(container_group_id=group))
    same = {"Idempotency-Key": "a-constant-key-of-a-careless-worker"}
    path = f"/work?machine_id=node&container_group_id={group}"
    [leased] = api.ok("GET", path, headers=same)
    report = {"machine_id": "node", "container_group_id": group, "lease": leased["lease"]}
    api.ok("POST", f"/jobs/{job['id']}/released", json=report)
    [again] = api.ok("GET", path, headers=same)
    assert again["attempt"] == 2
    assert again["lease"] != leased["lease"]
    for name in ("completed", "failed", "released"):
        body = refused(api.request("POST", f"/jobs/{job['id']}/{name}", json=report), 409)
        assert body["reason"] == "superseded"
    assert api.ok("POST", f"/jobs/{job['id']}/heartbeat", json=report)["reason"] == "superseded"
