"""When a job may run, for how long, and how it is tried again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kelpie.http import replies
from tests.api import ApiUser
from tests.factories import job_body
from tests.system.contract import TIME, lease, leased, refused, report
from tests.waiting import wait_until


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
