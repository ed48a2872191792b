from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from kelpie.http.errors import invalid
from kelpie.http.job_models import BatchBody, JobBody
from kelpie.http.job_queries import JobsQuery
from kelpie.http.work_models import FailureBody, WorkQuery
from kelpie.job import LEGACY_KEYS, Direction, JobSpec, LegacySync, Outcome, Sync, SyncEntry
from tests.factories import job_body

ENTRY = {"bucket": "b", "prefix": "p", "local_path": "/data", "direction": "download"}
LEGACY = {name: f"{name}-x" for name in LEGACY_KEYS}


def spec_of(body: dict[str, Any]) -> JobSpec:
    return JobBody.model_validate_json(json.dumps(body)).spec()


def wrong_paths(body: Any, model: Any = JobBody) -> list[str]:
    """The paths that the refusal of ``body`` names."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate_json(json.dumps(body))
    return [path for path, _ in invalid(caught.value).errors]


def test_a_small_job_gets_the_documented_defaults() -> None:
    assert spec_of(job_body()) == JobSpec(command="true", container_group_id="group-1", sync=Sync())


def test_every_key_reaches_the_definition() -> None:
    upload = ENTRY | {"direction": "upload", "pattern": r"\.ckpt$"}
    spec = spec_of(
        {
            "command": "python",
            "arguments": ["sim.py", ""],
            "environment": {"A": "1"},
            "container_group_id": "g",
            "max_failures": 5,
            "heartbeat_interval": 7,
            "webhook": "https://example.org/hook?x=1",
            "webhook_events": ["canceled", "completed", "canceled"],
            "compression": True,
            "sync": {"before": [ENTRY], "during": [upload], "after": []},
            "priority": 9,
            "labels": {"paper": "ising"},
        }
    )
    assert spec == JobSpec(
        command="python",
        arguments=("sim.py", ""),
        environment={"A": "1"},
        container_group_id="g",
        max_failures=5,
        heartbeat_interval=7,
        webhook="https://example.org/hook?x=1",
        webhook_events=("canceled", "completed"),
        compression=True,
        sync=Sync(
            before=(SyncEntry("b", "p/", "/data", Direction.DOWNLOAD),),
            during=(SyncEntry("b", "p/", "/data", Direction.UPLOAD, r"\.ckpt$"),),
        ),
        priority=9,
        labels={"paper": "ising"},
    )


def test_the_legacy_form_is_kept_with_folders_as_prefixes() -> None:
    body = job_body(sync=None) | LEGACY | {"input_prefix": "a/", "output_prefix": ""}
    legacy = spec_of(body).legacy
    assert legacy == LegacySync(
        "input_bucket-x", "a/", "checkpoint_bucket-x", "checkpoint_prefix-x/", "output_bucket-x", ""
    )


def test_null_is_as_good_as_absent() -> None:
    optional = [name for name, field in JobBody.model_fields.items() if not field.is_required()]
    assert spec_of(dict.fromkeys(optional) | job_body()) == spec_of(job_body())


def test_unknown_keys_are_ignored() -> None:
    assert spec_of(job_body(colour="blue")) == spec_of(job_body())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("command", None),
        ("command", ""),
        ("command", 5),
        ("command", "a\0b"),
        ("arguments", "x"),
        ("arguments", [1]),
        ("arguments", {"0": "x"}),
        ("environment", {"A": 1}),
        ("environment", [["A", "1"]]),
        ("environment", {"A=B": "1"}),
        ("environment", {"": "1"}),
        ("environment", {"A": "\0"}),
        ("container_group_id", ""),
        ("container_group_id", "a\nb"),
        ("container_group_id", "x" * 257),
        ("max_failures", "3"),
        ("max_failures", True),
        ("max_failures", 0),
        ("max_failures", 2.5),
        ("heartbeat_interval", 0),
        ("heartbeat_interval", 10**12),
        ("compression", 1),
        ("compression", "true"),
        ("webhook", "ftp://example.org/"),
        ("webhook", "http://"),
        ("webhook", "http://user:pw@example.org/"),
        ("webhook", "https://example.org/" + "x" * 3000),
        ("webhook", "http://[::1"),
        ("priority", 256),
        ("priority", -1),
        ("labels", {"a": 1}),
        ("labels", {str(i): "" for i in range(65)}),
        ("sync", []),
        ("sync", True),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_key(key: str, value: Any) -> None:
    paths = wrong_paths(job_body(**{key: value}))
    assert all(path.split(".")[0] == key for path in paths)


@pytest.mark.parametrize(
    ("entry", "path"),
    [
        ({"direction": "upload"}, "sync.before.0.direction"),
        ({"bucket": ""}, "sync.before.0.bucket"),
        ({"prefix": None}, "sync.before.0.prefix"),
        ({"local_path": ""}, "sync.before.0.local_path"),
        ({"pattern": "(?=x)"}, "sync.before.0.pattern"),
        ({"pattern": "x" * 1001}, "sync.before.0.pattern"),
    ],
)
def test_a_wrong_sync_entry_is_named_to_the_field(entry: dict[str, Any], path: str) -> None:
    assert wrong_paths(job_body(sync={"before": [ENTRY | entry]})) == [path]


def test_what_goes_up_must_say_so() -> None:
    for list_name in ("during", "after"):
        assert wrong_paths(job_body(sync={list_name: [ENTRY]})) == [f"sync.{list_name}.0.direction"]


def test_sync_and_the_legacy_form_exclude_each_other_and_one_is_needed() -> None:
    body = job_body()
    for wrong in (
        body | {"input_bucket": "b"},
        body | LEGACY,
        body | {"sync": None},
        body | {"sync": None} | {name: LEGACY[name] for name in LEGACY_KEYS[:5]},
    ):
        assert wrong_paths(wrong) == [""]


def test_more_than_a_program_can_be_given_is_refused() -> None:
    assert wrong_paths(job_body(arguments=["x" * 130_000] * 9)) == [""]
    assert wrong_paths(job_body(arguments=["x"] * 10_001)) == ["arguments"]
    assert wrong_paths(job_body(sync={"before": [ENTRY] * 101})) == ["sync.before"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"nul", b"\xff", b'{"command": "\\ud800"}', b"[" * 100_000, b"{}{}", b"{'a': 1}"]
)
def test_what_is_no_json_is_refused_as_that(body: bytes) -> None:
    with pytest.raises(ValidationError) as caught:
        JobBody.model_validate_json(body)
    refusal = invalid(caught.value)
    assert str(refusal).startswith("The body is not JSON")
    assert not refusal.errors


@pytest.mark.parametrize("body", [[], 5, "x", None, True])
def test_a_body_that_is_no_object_is_refused(body: Any) -> None:
    assert wrong_paths(body) == [""]


def test_a_batch_names_its_first_bad_job() -> None:
    jobs = [job_body() for _ in range(5)]
    del jobs[3]["command"]
    jobs[4]["max_failures"] = 0
    with pytest.raises(ValidationError) as caught:
        BatchBody.model_validate_json(json.dumps(jobs))
    refusal = invalid(caught.value, batch=True)
    assert refusal.index == 3
    assert [path for path, _ in refusal.errors] == ["3.command", "4.max_failures"]


@pytest.mark.parametrize("count", [0, 1001])
def test_a_batch_has_between_one_and_a_thousand_jobs(count: int) -> None:
    assert wrong_paths([job_body()] * count, BatchBody) == [""]


def test_the_errors_of_one_refusal_are_bounded() -> None:
    assert len(wrong_paths([{}] * 1000, BatchBody)) == 100


def test_no_refusal_repeats_what_was_sent() -> None:
    with pytest.raises(ValidationError) as caught:
        JobBody.model_validate_json(json.dumps(job_body(environment={"TOKEN": 12345678})))
    refusal = invalid(caught.value)
    assert "12345678" not in f"{refusal} {refusal.errors}"


def test_a_failure_is_the_applications_unless_it_says_otherwise() -> None:
    who = {"machine_id": "n", "container_group_id": "g"}
    assert FailureBody.model_validate_json(json.dumps(who)).kind is Outcome.APP_FAILED
    assert (
        FailureBody.model_validate_json(json.dumps(who | {"outcome": "sync_failed"})).kind
        is Outcome.SYNC_FAILED
    )
    for wrong in ({"outcome": "completed"}, {"exit_code": "1"}, {"exit_code": True}, {"reason": "x" * 2001}):
        assert wrong_paths(who | wrong, FailureBody) == list(wrong)


def test_queries_read_numbers_and_truths_from_text() -> None:
    query = JobsQuery.model_validate({"page": "-3", "page_size": "7", "asc": "true", "status": "running"})
    assert (query.page, query.page_size, query.asc, query.status) == (-3, 7, True, "running")
    assert WorkQuery.model_validate({"machine_id": "n", "container_group_id": "g", "wait": "10"}).wait == 10


@pytest.mark.parametrize(
    "wrong",
    [{"page_size": "0"}, {"page_size": "1001"}, {"page": "x"}, {"status": "lost"}, {"asc": "perhaps"}],
)
def test_a_wrong_query_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        JobsQuery.model_validate(wrong)


@pytest.mark.parametrize("wait", ["-1", "21", "nan", "inf", "x"])
def test_a_long_poll_is_bounded(wait: str) -> None:
    with pytest.raises(ValidationError):
        WorkQuery.model_validate({"machine_id": "n", "container_group_id": "g", "wait": wait})
