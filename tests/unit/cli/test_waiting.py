"""What --wait says while it waits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kelpie.client import Client
from tests.unit.cli.conftest import JOB_ID, Run, Scripted, job_wire

WAIT = ("job", JOB_ID, "--wait")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks at the clock between two looks."""
    monkeypatch.setattr("kelpie.client.jobs.time.sleep", lambda _: None)


def attempts(*outcomes: tuple[str, str | None]) -> dict[str, Any]:
    """Those of a job, each on a node of its own."""
    start = "2026-11-24T00:00:00.000Z"
    return {
        "attempts": [
            {"attempt": n, "machine_id": f"node-{n}", "start": start, "outcome": outcome, "reason": reason}
            for n, (outcome, reason) in enumerate(outcomes, 1)
        ]
    }


def completed(server: Scripted) -> None:
    server.answer(200, job_wire(status="completed") | attempts())


def lines(text: str) -> list[str]:
    """What was said, without the id in front."""
    assert all(line.startswith(f"{JOB_ID} ") for line in text.splitlines())
    return [line.removeprefix(f"{JOB_ID} ") for line in text.splitlines()]


def test_each_change_is_a_line_and_counts_are_no_change(kelpie: Run, server: Scripted) -> None:
    for waiting_for in (
        *("jobs before it in turn: 2", "jobs before it in turn: 1"),
        *("a free node: all are busy (3 jobs run)", "a free node: all are busy (2 jobs run)"),
        *("every polling node is banned (a, b)", "every polling node is banned (a, b, c)"),
    ):
        server.answer(200, job_wire(status="running", attempt=1, machine_id="a", waiting_for=waiting_for))
    for attempt in (2, 2, 3):
        server.answer(200, job_wire(status="running", machine_id="node-2", attempt=attempt))
    completed(server)
    assert lines(kelpie(*WAIT).err) == [
        "waits: jobs before it in turn: 2",
        "waits: a free node: all are busy (3 jobs run)",
        "waits: every polling node is banned (a, b)",
        "running on node-2, attempt 2",
        "running on node-2, attempt 3",
    ]


def test_each_failed_attempt_is_told_once_also_the_last_one(kelpie: Run, server: Scripted) -> None:
    two = (("app_failed", "exit code 3"), ("interrupted", None), ("sync_failed", "\x1b[31mno bucket"))
    server.answer(200, job_wire(num_failures=2))
    server.answer(200, attempts(*two))
    server.answer(200, job_wire(num_failures=3))
    server.answer(200, attempts(*two))
    server.answer(200, job_wire(num_failures=4, status="failed"))
    server.answer(200, job_wire(num_failures=4) | attempts(*two, ("app_failed", None)))
    said = kelpie(*WAIT)
    assert said.code == 1
    assert lines(said.err) == [
        "failed on node-1, attempt 1: exit code 3",
        r"failed on node-3, attempt 3: \x1b[31mno bucket",
        "pending",
        "a failure was reported by hand",
        "failed on node-4, attempt 4",
    ]


def test_what_cannot_be_read_is_told_at_the_next_look(kelpie: Run, server: Scripted) -> None:
    server.answer(200, job_wire(num_failures=1))
    server.answer(403, {"error": "Forbidden", "message": "no"})
    server.answer(200, job_wire(num_failures=1))
    server.answer(200, attempts(("app_failed", "exit code 3")))
    completed(server)
    assert lines(kelpie(*WAIT).err) == ["pending", "failed on node-1, attempt 1: exit code 3"]


def test_json_is_all_that_is_said(kelpie: Run, server: Scripted) -> None:
    server.answer(200, job_wire())
    completed(server)
    said = kelpie(*WAIT, "--json")
    assert (said.err, json.loads(said.out)["status"]) == ("", "completed")


def test_a_full_disk_under_stderr_ends_no_wait(server: Scripted) -> None:
    server.answer(200, job_wire(status="running", machine_id="node-1", attempt=1))
    completed(server)
    with Path("/dev/full").open("w") as full:
        said = subprocess.run(
            [sys.executable, "-m", "kelpie.cli", *WAIT], stdout=subprocess.PIPE, stderr=full,
            env=os.environ | {"KELPIE_API_URL": server.url}, check=False,
        )  # fmt: skip
    assert b"completed" in said.stdout
    assert said.returncode == 0


def test_a_wait_that_was_too_short_says_what_the_job_waits_for(server: Scripted) -> None:
    server.answer(200, job_wire(waiting_for="no node polls this group"))
    with Client() as client, pytest.raises(TimeoutError, match=r"still pending \(no node polls this group\)"):
        client.wait(JOB_ID, 0.0)
