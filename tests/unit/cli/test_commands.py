"""The command line: what it sends, what it shows, and what its exit code says."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kelpie.cli import COMMANDS, exit_codes
from kelpie.cli.options import seconds_of
from kelpie.transfers import EntryTransfers, TransferReport, Transfers, TransferState
from tests.unit.cli.conftest import JOB_ID, Said, Scripted, job_wire

Run = Callable[..., Said]

ESCAPE = "\x1b[2J\x1b]0;owned\x07[bold red]\u202eevil\r\n"


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


@pytest.mark.parametrize(
    "argv",
    [
        ["submit", "--queue", "q"],
        ["submit", "--", "true"],
        ["submit", "--queue", "q", "--env", "novalue", "--", "true"],
        ["submit", "--queue", "q", "--max-failures", "0", "--", "true"],
        ["submit", "--queue", "q", "--file", "-", "--", "true"],
        ["jobs", "--status", "sleeping"],
        ["job"],
        ["jobs", "--label", "novalue"],
        ["hold"],
        ["resume"],
        ["requeue"],
        ["unban", "--node", "n"],
        ["prioritize", JOB_ID],
        ["prioritize", "--priority", "256", JOB_ID],
        ["completion"],
        ["completion", "tcsh"],
        ["cancel"],
        ["cancel", JOB_ID, "--queue", "q"],
        ["delete"],
        ["nonsense"],
    ],
)
def test_a_wrong_command_line_is_a_usage_error(kelpie: Run, server: Scripted, argv: list[str]) -> None:
    assert kelpie(*argv).code == exit_codes.USAGE
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


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, {"error": "Bad", "message": "no", "errors": [{"path": "command", "message": "empty"}]}, 2),
        (404, {"error": "Not Found", "message": "no such job"}, 3),
        (401, {"error": "Unauthorized", "message": "no key"}, 4),
        (403, {"error": "Forbidden", "message": "wrong key"}, 4),
        (409, {"error": "Conflict", "message": "it has completed"}, 6),
        (409, {"error": "Conflict", "message": "lost", "reason": "superseded"}, 6),
        (413, {"error": "Too Large", "message": "too large"}, 2),
        (500, {"error": "Internal", "message": "our fault"}, 5),
        (503, {"error": "Unavailable", "message": "no Redis"}, 5),
        (302, {}, 5),
        (200, b"<html>not an API</html>", 5),
        (502, b"<html>bad gateway</html>", 5),
    ],
)
def test_the_exit_code_says_what_went_wrong(
    kelpie: Run, server: Scripted, status: int, body: Any, code: int
) -> None:
    server.answer(status, body, Location="/elsewhere")
    said = kelpie("job", JOB_ID)
    assert said.code == code
    assert said.out == ""
    assert said.err.startswith("kelpie: ")
    assert "Traceback" not in said.err


def test_an_api_that_is_not_there_is_unreachable(
    kelpie: Run, server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KELPIE_API_URL", "http://user:hunter2@127.0.0.1:9")
    said = kelpie("jobs")
    assert said.code == exit_codes.UNREACHABLE
    assert "hunter2" not in said.err
    assert "klp_secret" not in said.err


def test_jobs_shows_a_table(kelpie: Run, server: Scripted) -> None:
    server.answer(
        200,
        {"_count": 1, "jobs": [job_wire(status="running", machine_id="node-7", attempt=4, num_failures=2)]},
    )
    said = kelpie("jobs", "--status", "running", "--queue", "a b&c", "--limit", "7", "--oldest")
    heading, row = said.out.splitlines()
    assert heading.split() == ["status", "id", "queue", "attempt", "failures", "node", "progress", "age"]
    assert row.split()[:6] == ["running", JOB_ID, "q", "4", "2/3", "node-7"]
    path = "/jobs?status=running&container_group_id=a+b%26c&page_size=7&asc=true"
    assert server.requests[0].path == path


def test_jobs_filters_by_label_node_and_text(kelpie: Run, server: Scripted) -> None:
    server.answer(200, {"_count": 0, "jobs": [], "next_cursor": None})
    said = kelpie("jobs", "--label", "a=b=c", "--label", "d=", "--node", "n 1", "--text", "x")
    assert (said.code, said.out) == (0, "No jobs.\n")
    (path,) = (request.path for request in server.requests)
    assert path == "/jobs?machine_id=n+1&q=x&label=a%3Db%3Dc&label=d%3D&page_size=100&asc=false"


def test_jobs_reads_as_many_pages_as_it_needs(
    kelpie: Run, server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kelpie.client.jobs.PAGE_SIZE", 2)
    for count in (2, 2, 1):
        server.answer(200, {"_count": count, "jobs": [job_wire()] * count})
    assert len(json.loads(kelpie("jobs", "--json", "--limit", "100").out)) == 5
    assert len(server.requests) == 3


def test_job_shows_when_it_may_run(kelpie: Run, server: Scripted) -> None:
    server.answer(
        200,
        job_wire(
            waiting_for="held: it waits until it is resumed",
            on_hold=True,
            banned_nodes=["n1", "n2"],
            not_before="2027-01-31T08:00:00.000Z",
            max_runtime_s=3 * 86_400,
            retry_backoff_s=90,
            priority=7,
        ),
    )
    shown = {tuple(line.split("  ", 1)) for line in kelpie("job", JOB_ID).out.splitlines()}
    facts = {name: text.strip() for name, text in (pair for pair in shown if len(pair) == 2)}
    assert facts["waiting for"] == "held: it waits until it is resumed"
    assert facts["on hold"] == "yes"
    assert facts["banned nodes"] == "n1 n2"
    assert facts["not before"] == "2027-01-31T08:00:00.000Z"
    assert facts["max runtime"] == "3d0h"
    assert facts["retry backoff"] == "1m30s"
    assert facts["priority"] == "7"


@pytest.mark.parametrize(
    ("name", "done"),
    [("hold", "held"), ("resume", "resumed"), ("requeue", "requeued"), ("unban", "unbanned")],
)
def test_a_change_is_made_to_each_job_in_turn(kelpie: Run, server: Scripted, name: str, done: str) -> None:
    server.answer(200, job_wire())
    said = kelpie(name, JOB_ID, "other")
    assert said == Said(0, f"{JOB_ID} {done}\nother {done}\n", "")
    assert [(request.method, request.path) for request in server.requests] == [
        ("POST", f"/jobs/{JOB_ID}/{name}"),
        ("POST", f"/jobs/other/{name}"),
    ]
    assert [one["id"] for one in json.loads(kelpie(name, JOB_ID, "other", "--json").out)] == [JOB_ID] * 2
    server.answers[:] = [(409, {"error": "Conflict", "message": "it has completed"}, {})]
    assert kelpie(name, JOB_ID).code == exit_codes.CONFLICT
    server.answers[:] = [(404, {"error": "Not Found", "message": "no such job"}, {})]
    assert kelpie(name, JOB_ID).code == exit_codes.NOT_FOUND


def test_unban_of_one_node(kelpie: Run, server: Scripted) -> None:
    server.answer(200, job_wire())
    assert kelpie("unban", "--node", "n1", JOB_ID).code == 0
    assert server.requests[0].body == {"machine_id": "n1"}


def test_prioritize_tells_the_priority(kelpie: Run, server: Scripted) -> None:
    server.answer(200, job_wire(priority=9))
    said = kelpie("prioritize", "--priority", "9", JOB_ID)
    assert (said.code, said.out) == (0, f"{JOB_ID} prioritized\n")
    assert (server.requests[0].path, server.requests[0].body) == (
        f"/jobs/{JOB_ID}/prioritize",
        {"priority": 9},
    )


def test_job_shows_the_attempts(kelpie: Run, server: Scripted) -> None:
    attempts = [
        {
            "attempt": 1,
            "machine_id": "node-1",
            "start": "2026-11-24T00:00:00.000Z",
            "end": "2026-11-24T00:01:05.000Z",
            "outcome": "app_failed",
            "exit_code": 3,
            "reason": "killed by signal 9 (SIGKILL)",
            "last_heartbeat": None,
        },
        {"attempt": 2, "machine_id": "node-2", "start": "2026-11-24T00:02:00.000Z"},
    ]
    server.answer(200, job_wire(attempts=attempts))
    said = kelpie("job", JOB_ID)
    assert "1m05s" in said.out
    assert "app_failed" in said.out
    assert "killed by signal 9" in said.out
    assert "running" in said.out.splitlines()[-1]
    shown = json.loads(kelpie("job", JOB_ID, "--json").out)
    assert [one["outcome"] for one in shown["attempts"]] == ["app_failed", None]


def test_job_shows_what_was_moved_for_each_entry(kelpie: Run, server: Scripted) -> None:
    entry = {"bucket": "b", "prefix": "in/", "local_path": "/in", "direction": "download"}
    moved = EntryTransfers(TransferState.MOVING, files=1200, bytes=5_000_000, unchanged=3, waiting_files=7)
    told = Transfers(1, 1_800_000_000_000, TransferReport(before=(moved, moved, moved)))  # more than entries
    wire = job_wire(sync={"before": [entry, entry]}, attempts=[], transfers=told.to_wire())
    server.answer(200, wire)
    lines = kelpie("job", JOB_ID).out.splitlines()
    assert sum("moving: 1,200 files, 4.8 MiB, 3 already there, 7 to go" in line for line in lines) == 2
    assert json.loads(kelpie("job", JOB_ID, "--json").out)["transfers"] == told.to_wire()
    assert server.requests[-1].path == f"/jobs/{JOB_ID}?expand=transfers"
    server.answers[:] = [(200, job_wire(sync={"before": [entry]}, attempts=[]), {})]  # an older node or API
    assert "files" not in kelpie("job", JOB_ID).out


def test_job_shows_the_last_words_of_the_attempt_that_failed_last(kelpie: Run, server: Scripted) -> None:
    attempt = {"machine_id": "n", "start": "2026-11-24T00:00:00.000Z", "outcome": "app_failed"}
    words = [f"first line of {number}\n{ESCAPE}second" for number in (1, 2)]
    attempts = [attempt | {"attempt": i, "stderr_tail": text} for i, text in enumerate(words, 1)]
    server.answer(200, job_wire(attempts=[*attempts, attempt | {"attempt": 3, "outcome": "released"}]))
    said = kelpie("job", JOB_ID)
    assert "last lines on stderr of attempt 2:" in said.out
    assert "  first line of 2\n" in said.out
    assert "first line of 1" not in said.out
    assert "second" in said.out
    assert not set(said.out) & set("\x1b\x07\r\u202e")


def test_hostile_text_reaches_the_terminal_as_harmless_text(kelpie: Run, server: Scripted) -> None:
    hostile = job_wire(
        container_group_id=ESCAPE,
        machine_id=ESCAPE,
        command=ESCAPE,
        labels={ESCAPE: ESCAPE},
        attempts=[
            {"attempt": 1, "machine_id": ESCAPE, "start": "2026-11-24T00:00:00.000Z", "reason": ESCAPE}
        ],
    )
    server.answer(200, {"_count": 1, "jobs": [hostile]})
    listed = kelpie("jobs")
    as_json = kelpie("jobs", "--json")
    server.answers.clear()
    server.answer(200, hostile)
    shown = kelpie("job", JOB_ID)
    server.answers.clear()
    server.answer(404, {"error": "x", "message": ESCAPE})
    refused = kelpie("job", JOB_ID)
    for text in (listed.out, as_json.out, shown.out, refused.err):
        assert not {"\x1b", "\x07", "\r", "\u202e"} & set(text)
    assert "[bold red]" in listed.out  # shown, not obeyed
    assert r"\x1b[2J" in listed.out
    assert json.loads(as_json.out)[0]["machine_id"] == ESCAPE


def test_cancel_and_delete(kelpie: Run, server: Scripted) -> None:
    server.answer(202, {"message": "Job canceled"})
    assert kelpie("cancel", JOB_ID, "other").code == 0
    server.answers.clear()
    server.answer(200, {"count": 3})
    assert kelpie("cancel", "--queue", "a/b", "--json").out == '{\n  "count": 3\n}\n'
    assert kelpie("delete", "--yes", JOB_ID).code == 0
    assert [(request.method, request.path) for request in server.requests] == [
        ("DELETE", f"/jobs/{JOB_ID}"),
        ("DELETE", "/jobs/other"),
        ("DELETE", "/jobs/container-groups/a%2Fb"),
        ("DELETE", f"/jobs/{JOB_ID}?purge=true"),
    ]


@pytest.mark.parametrize(
    ("argv", "path"),
    [
        *(((name,), f"/{name}") for name in ("hold", "resume", "requeue", "unban")),
        (("cancel",), ""),
        (("delete", "--yes"), "?purge=true"),
    ],
)
def test_one_refused_job_does_not_keep_the_others_from_being_changed(
    kelpie: Run, server: Scripted, argv: tuple[str, ...], path: str
) -> None:
    server.answer(404, {"error": "Not Found", "message": "There is no job 'gone'."})
    server.answer(409, {"error": "Conflict", "message": "Job done cannot be changed."})
    server.answer(200, job_wire())
    said = kelpie(*argv, "gone", "done", JOB_ID)
    assert said.code == exit_codes.NOT_FOUND
    assert [request.path for request in server.requests] == [
        f"/jobs/{job_id}{path}" for job_id in ("gone", "done", JOB_ID)
    ]
    assert said.out.startswith(JOB_ID)
    assert said.err == "kelpie: There is no job 'gone'.\nkelpie: Job done cannot be changed.\n"


def test_what_refuses_all_jobs_ends_the_command_at_the_first(kelpie: Run, server: Scripted) -> None:
    server.answer(403, {"error": "Forbidden", "message": "The API key in X-Kelpie-Key is not known here."})
    assert kelpie("hold", "one", "two").code == exit_codes.REFUSED
    assert len(server.requests) == 1


@pytest.mark.parametrize("argv", [("delete", JOB_ID), ("keys", "delete-user", "user-2")])
def test_what_nobody_is_there_to_confirm_names_the_option(
    kelpie: Run, server: Scripted, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    said = kelpie(*argv)
    assert said.code == exit_codes.USAGE
    assert "--yes" in said.err
    assert server.requests == []


def test_a_missing_key_names_the_variable(
    kelpie: Run, server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KELPIE_API_KEY")
    server.answer(401, {"error": "Unauthorized", "message": "Show an API key in the header X-Kelpie-Key."})
    said = kelpie("jobs")
    assert said.code == exit_codes.REFUSED
    assert "KELPIE_API_KEY is not set" in said.err


def test_submit_names_the_events_of_its_webhook(kelpie: Run, server: Scripted) -> None:
    server.answer(202, job_wire())
    submit = ("submit", "--queue", "q", "--webhook", "https://example.org/", "--webhook-event")
    assert kelpie(*submit, "failed", "--webhook-event", "interrupted", "--", "true").code == 0
    assert server.requests[0].body["webhook_events"] == ["failed", "interrupted"]
    assert kelpie(*submit, "exploded", "--", "true").code == exit_codes.USAGE
    assert len(server.requests) == 1


def test_keys_create_makes_a_user_and_shows_the_key(kelpie: Run, server: Scripted) -> None:
    server.answer(201, {"id": "user-2", "username": "alice", "created": "2026-11-24T00:00:00.000Z"})
    server.answer(201, {"token": "klp_new"})
    said = kelpie("keys", "create", "alice", "--project", "p")
    assert (said.code, said.out) == (0, "klp_new\n")
    assert [request.path for request in server.requests] == ["/users", "/users/user-2/token"]
    assert server.requests[1].body == {"org_name": "default", "project_name": "p"}


KEY = {
    "id": "key-1",
    "prefix": "klp_abcdef",
    "name": "nodes",
    "scopes": ["work"],
    "org_name": "o",
    "project_name": "p",
    "created": "2026-11-24T00:00:00.000Z",
    "expires": "2026-12-24T00:00:00.000Z",
    "last_used": None,
}


def test_keys_new_makes_a_narrower_key_of_ones_own(kelpie: Run, server: Scripted) -> None:
    server.answer(201, {"token": "klp_new"} | KEY)
    said = kelpie("keys", "new", "--scope", "work", "--name", "nodes", "--expires", "30d")
    assert (said.code, said.out) == (0, "klp_new\n")
    assert "key-1" in said.err
    assert server.requests[0].path == "/users/me/keys"
    assert server.requests[0].body == {"scopes": ["work"], "name": "nodes", "expires_in_s": 30 * 86_400}
    assert json.loads(kelpie("keys", "new", "--json").out)["key"] == "klp_new"
    assert server.requests[1].body == {}


def test_keys_add_and_create_pass_on_how_far_the_key_reaches(kelpie: Run, server: Scripted) -> None:
    server.answer(201, {"token": "klp_new"})
    assert kelpie("keys", "add", "user/2", "--scope", "work", "--scope", "submit").out == "klp_new\n"
    assert server.requests[0].path == "/users/user%2F2/token"
    assert server.requests[0].body["scopes"] == ["work", "submit"]


@pytest.mark.parametrize("wrong", [("--expires", "soon"), ("--expires", "5"), ("--scope", "all")])
def test_a_wrong_option_of_a_key_is_told_before_anything_is_sent(
    kelpie: Run, server: Scripted, wrong: tuple[str, str]
) -> None:
    said = kelpie("keys", "new", *wrong)
    assert said.code == exit_codes.USAGE
    assert wrong[1] in said.err
    assert server.requests == []


def test_keys_list_shows_what_is_known_of_keys(kelpie: Run, server: Scripted) -> None:
    server.answer(200, {"keys": [KEY, KEY | {"id": "key-2", "scopes": None, "name": "\x1b[31m"}]})
    said = kelpie("keys", "list")
    first, second = said.out.splitlines()[1:]
    assert all(piece in first for piece in ("key-1", "klp_abcdef", "nodes", "work"))
    assert "all" in second
    assert "\x1b" not in said.out
    assert [key["id"] for key in json.loads(kelpie("keys", "list", "--user", "u", "--json").out)] == [
        "key-1",
        "key-2",
    ]
    assert [request.path for request in server.requests] == ["/users/me/keys", "/users/u/keys"]


def test_keys_revoke_ends_a_key(kelpie: Run, server: Scripted) -> None:
    server.answer(204, b"")
    assert kelpie("keys", "revoke", "key-1").code == 0
    assert kelpie("keys", "revoke", "key-1", "--user", "u").code == 0
    assert [(request.method, request.path) for request in server.requests] == [
        ("DELETE", "/users/me/keys/key-1"),
        ("DELETE", "/users/u/keys/key-1"),
    ]
    server.answers.clear()
    server.answer(404, {"error": "Not Found", "message": "There is no API key 'key-1'."})
    said = kelpie("keys", "revoke", "key-1")
    assert (said.code, "key-1" in said.err) == (exit_codes.NOT_FOUND, True)


def test_keys_users_lists_all_of_them(kelpie: Run, server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kelpie.client.keys.PAGE_SIZE", 2)
    users = [
        {"id": f"user-{i}", "username": f"name-{i}", "created": "2026-11-24T00:00:00.000Z"} for i in range(3)
    ]
    server.answer(200, {"_count": 2, "users": users[:2]})
    server.answer(200, {"_count": 1, "users": users[2:]})
    assert [line.split()[1] for line in kelpie("keys", "users").out.splitlines()[1:]] == [
        "name-0",
        "name-1",
        "name-2",
    ]
    assert [request.path for request in server.requests] == [
        "/users?page=1&page_size=2",
        "/users?page=2&page_size=2",
    ]


def test_keys_delete_user_asks_first(kelpie: Run, server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer(204, b"")
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert kelpie("keys", "delete-user", "user-2").code == exit_codes.INTERRUPTED
    assert server.requests == []
    assert kelpie("keys", "delete-user", "user-2", "--yes").code == 0
    assert [(request.method, request.path) for request in server.requests] == [("DELETE", "/users/user-2")]


def test_every_command_has_help_with_examples(kelpie: Run) -> None:
    for name in COMMANDS:
        said = kelpie(name, "--help")
        assert said.code == 0, name
        assert "Examples:" in said.out, name
        assert "Exit codes:" in said.out, name


@pytest.mark.parametrize(
    ("name", "extra", "missing"),
    [("api", "server", "gevent"), ("platform", "server", "pydantic"), ("demo", "demo", "numpy")],
)
def test_a_command_whose_extra_is_missing_says_which(name: str, extra: str, missing: str) -> None:
    # As in an environment without the package: its import fails.
    script = f"import sys; sys.modules[{missing!r}] = None; from kelpie.cli import main; main([{name!r}])"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert said.returncode == exit_codes.CONFIG
    assert f"pip install 'kelpie-jobs[{extra}]'" in said.stderr
    assert missing in said.stderr
    assert "Traceback" not in said.stderr


def test_the_bare_install_is_enough_for_the_client_and_its_commands() -> None:
    allowed = {"click", "rich", "urllib3", "pygments", "markdown_it", "mdurl", "brotli", "zstandard"}
    script = (
        "import sys; from kelpie import Client; import kelpie.cli; "
        "[kelpie.cli.cli.get_command(None, name) for name in "
        "('submit', 'jobs', 'job', 'cancel', 'hold', 'unban', 'delete', 'keys', 'scaling', 'completion')]; "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(said.stdout.split()) - set(sys.stdlib_module_names)
    foreign = {name for name in loaded if not name.startswith(("_", "kelpie"))}
    assert foreign <= allowed, foreign - allowed


def test_the_client_imports_no_more_of_kelpie_than_it_needs() -> None:
    script = "import sys; from kelpie import Client; print(*sorted(sys.modules))"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = {name for name in said.stdout.split() if name.partition(".")[0].startswith("kelpie")}
    others = {name for name in loaded if not name.startswith("kelpie.client")}
    plain = {"errors", "job", "progress", "report", "scaling", "transfers"}
    assert others == {"kelpie", *(f"kelpie.{name}" for name in plain)}


def test_jobs_and_job_show_progress_as_text(kelpie: Run, server: Scripted) -> None:
    said = {
        "fraction": 0.4215,
        "step": 4215,
        "total": 10_000,
        "metrics": {"loss": 0.5, ESCAPE: 1e-9},
        "checkpoint": "2026-11-24T00:00:00.000Z",
        "updated": "2026-11-24T00:00:00.000Z",
        "eta": "2126-11-24T00:00:00.000Z",
    }
    running = job_wire(status="running", attempt=1, progress=said)
    server.answer(200, {"_count": 1, "jobs": [running], "next_cursor": None})
    listed = kelpie("jobs").out
    assert "42.1%, 36" in listed  # and so many days
    server.answers.clear()
    server.answer(200, running | {"attempts": []})
    shown = kelpie("job", JOB_ID).out
    assert "4,215 of 10,000" in shown
    assert "loss=0.5" in shown
    assert "\x1b" not in shown
