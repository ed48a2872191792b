"""The command line: what it sends, what it shows, and what its exit code says."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import Any

import pytest

from kelpie.cli import COMMANDS, exit_codes
from kelpie.transfers import EntryTransfers, TransferReport, Transfers, TransferState
from tests.unit.cli.conftest import JOB_ID, Run, Said, Scripted, job_wire

ESCAPE = "\x1b[2J\x1b]0;owned\x07[bold red]\u202eevil\r\n"


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
        "import sys; before = set(sys.modules); from kelpie import Client; import kelpie.cli; "
        "[kelpie.cli.cli.get_command(None, name) for name in "
        "('submit', 'jobs', 'job', 'cancel', 'hold', 'unban', 'delete', 'keys', 'scaling', 'completion')]; "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
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
