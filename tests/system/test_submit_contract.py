"""What a submitted job may say, and what comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from kelpie.http import replies
from kelpie.job import LEGACY_KEYS
from tests.api import ApiUser
from tests.factories import job_body
from tests.system.contract import (
    NEW_KEYS,
    OLD_KEYS,
    REPORTS,
    TIME,
    UNKNOWN,
    refused,
    report,
)


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
    for_ever = api.submit(job_body(container_group_id=group, max_failures=2**31 - 1))
    assert for_ever["max_failures"] == 2**31 - 1
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
