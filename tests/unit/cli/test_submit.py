"""kelpie submit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kelpie.cli import exit_codes
from kelpie.cli.options import seconds_of
from tests.unit.cli.conftest import JOB_ID, Run, Said, Scripted, job_wire


def test_submit_sends_the_whole_job(kelpie: Run, server: Scripted) -> None:
    server.answer(202, job_wire())
    said = kelpie(
        *("submit", "--queue", "q", "--before", "s3://b/in:/input", "--during", "/ckpt:s3://b/ck/"),
        *("--after", "/out:s3://b", "--env", "A=1=2", "--env", "B=", "--label", "k=v", "--max-failures", "5"),
        *("--heartbeat-interval", "7", "--priority", "9", "--webhook", "https://example.org/hook"),
        *("--compression", "--", "python", "sim.py", "--steps", "1000"),
    )
    assert said == Said(0, f"{JOB_ID}\n", "")
    request = server.requests[0]
    assert (request.method, request.path) == ("POST", "/jobs")
    assert request.headers["X-Kelpie-Key"] == "klp_secret"
    assert request.body == {
        "command": "python",
        "arguments": ["sim.py", "--steps", "1000"],
        "container_group_id": "q",
        "environment": {"A": "1=2", "B": ""},
        "labels": {"k": "v"},
        "max_failures": 5,
        "heartbeat_interval": 7,
        "priority": 9,
        "webhook": "https://example.org/hook",
        "compression": True,
        "sync": {
            "before": [{"bucket": "b", "prefix": "in/", "local_path": "/input", "direction": "download"}],
            "during": [{"bucket": "b", "prefix": "ck/", "local_path": "/ckpt", "direction": "upload"}],
            "after": [{"bucket": "b", "prefix": "", "local_path": "/out", "direction": "upload"}],
        },
    }


def test_submit_takes_times_as_durations(
    kelpie: Run, server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kelpie.cli.options.time.time", lambda: 1_800_000_000.0)
    server.answer(202, job_wire())
    submit = ("submit", "--queue", "q", "--max-runtime")
    assert kelpie(*submit, "1d12h", "--not-before", "2h", "--retry-backoff", "90s", "--", "true").code == 0
    assert kelpie(*submit, "60", "--not-before", "2027-01-31T10:00:00+02:00", "--", "true").code == 0
    first, second = (request.body for request in server.requests)
    assert (first["max_runtime_s"], first["retry_backoff_s"]) == (36 * 3600, 90)
    assert first["not_before"] == "2027-01-15T10:00:00.000Z"
    assert (second["max_runtime_s"], second["not_before"]) == (60, "2027-01-31T08:00:00.000Z")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(
            ("90s", 90),
            ("15m", 900),
            ("2h", 7200),
            ("3d", 259_200),
            ("1d2h3m4s", 93_784),
            ("0", 0),
            ("0s", 0),
        ),
        *(
            (wrong, None)
            for wrong in ("", "h", "1", "2 h", "-1s", "1.5h", "1h1d", "1w", "٣s", "9" * 20 + "s")
        ),
    ],
)
def test_a_duration_is_read_as_it_is_written(text: str, seconds: int | None) -> None:
    assert seconds_of(text) == (1 if text == "1" else seconds)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        *(("--max-runtime", text) for text in ("0", "0s", "soon", "-5", "1.5h")),
        *(("--retry-backoff", text) for text in ("0m", "2 hours")),
        *(("--not-before", text) for text in ("tomorrow", "2027-01-31T10:00:00", "2027-01-31", "-2h")),
        ("--not-before", "0001-01-01T00:00:00"),
    ],
)
def test_a_wrong_time_is_a_usage_error_that_shows_the_right_form(
    kelpie: Run, server: Scripted, option: str, text: str
) -> None:
    said = kelpie("submit", "--queue", "q", f"{option}={text}", "--", "true")
    assert said.code == exit_codes.USAGE
    assert text in said.err
    assert "2h" in said.err
    assert not server.requests


def test_submit_goes_under_the_key_that_it_is_given(kelpie: Run, server: Scripted) -> None:
    server.answer(202, job_wire())
    assert kelpie("submit", "--queue", "q", "--idempotency-key", "nightly-7", "--", "true").code == 0
    assert server.requests[0].headers["Idempotency-Key"] == "nightly-7"


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--before", "b/in:/input"),
        ("--before", "s3://b/in"),
        ("--before", "s3:///in:/input"),
        ("--before", "s3://b/in:"),
        ("--during", "/ckpt:b/ck"),
        ("--during", ":s3://b/ck"),
        ("--after", "/out:s3://"),
        ("--after", "/out:s3://b//x"),
        ("--after", "s3://a:s3://b"),
    ],
)
def test_a_wrong_sync_entry_is_a_usage_error_that_shows_the_right_form(
    kelpie: Run, server: Scripted, option: str, text: str
) -> None:
    said = kelpie("submit", "--queue", "q", option, text, "--", "true")
    assert said.code == exit_codes.USAGE
    assert text in said.err
    assert "s3://bucket/prefix" in said.err
    assert not server.requests


def test_submit_file_takes_one_job_or_many(kelpie: Run, server: Scripted, tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text(json.dumps({"command": "true"}))
    server.answer(202, job_wire())
    assert kelpie("submit", "--file", str(file)).code == 0
    server.answers.clear()
    server.answer(202, [job_wire(), job_wire()])
    file.write_text(json.dumps([{"command": "true"}, {"command": "true"}]))
    said = kelpie("submit", "--file", str(file), "--json")
    assert [one["id"] for one in json.loads(said.out)] == [JOB_ID, JOB_ID]
    assert [request.path for request in server.requests] == ["/jobs", "/jobs/batch"]


@pytest.mark.parametrize("content", ["{", "3", '["x"]', "[" * 100_000, "\xff"])
def test_submit_refuses_a_file_that_is_no_job(
    kelpie: Run, server: Scripted, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "job.json"
    file.write_text(content, encoding="latin-1")
    assert kelpie("submit", "--file", str(file)).code == exit_codes.USAGE
    assert not server.requests


@pytest.mark.parametrize(("status", "code"), [("completed", 0), ("failed", 1), ("canceled", 1)])
def test_submit_wait_says_how_the_job_ended(kelpie: Run, server: Scripted, status: str, code: int) -> None:
    server.answer(202, job_wire())
    server.answer(200, job_wire(status=status))
    said = kelpie("submit", "--queue", "q", "--wait", "--", "true")
    assert (said.code, said.out) == (code, f"{JOB_ID} {status}\n")


def test_submit_names_the_events_of_its_webhook(kelpie: Run, server: Scripted) -> None:
    server.answer(202, job_wire())
    submit = ("submit", "--queue", "q", "--webhook", "https://example.org/", "--webhook-event")
    assert kelpie(*submit, "failed", "--webhook-event", "interrupted", "--", "true").code == 0
    assert server.requests[0].body["webhook_events"] == ["failed", "interrupted"]
    assert kelpie(*submit, "exploded", "--", "true").code == exit_codes.USAGE
    assert len(server.requests) == 1
