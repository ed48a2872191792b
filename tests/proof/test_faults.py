"""A seed of faults on real parts violates nothing, and the auditor who says so can say something else."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.bench.crew import ROOT
from tests.proof.faults import auditor
from tests.proof.faults.link import Link
from tests.proof.faults.schedule import CONTROL, MOMENTS, STORE, Kind, draw
from tests.proof.faults.work import Work
from tests.waiting import wait_until

NODES = ["node0", "node1", "node2"]
SEED, FAULTS = 3, 12


def test_a_seed_of_faults_loses_nothing_and_leaves_nothing(
    tmp_path: Path, tell: Callable[[str], None]
) -> None:
    arguments = ["--seed", str(SEED), "--faults", str(FAULTS), "--nodes", str(len(NODES)), "--jobs", "4"]
    run = subprocess.run(
        [sys.executable, "-m", "tests.proof.faults", *arguments, "--keep", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert run.returncode == 0, (
        f"{run.stdout}{run.stderr}\nReplay it: python -m tests.proof.faults {' '.join(arguments)} --trace"
    )
    last = run.stdout.splitlines()[-1]
    found = re.search(r": (\d+) faults, (\d+) jobs .* 0 violations", last)
    assert found is not None, run.stdout
    assert int(found[1]) > FAULTS / 2
    assert int(found[2]) >= 4
    tell(f"faults: {last}")


def test_a_seed_is_the_same_schedule_each_time_and_seeds_strike_everything_at_every_moment() -> None:
    def of(seed: int) -> dict[str, Any]:
        return draw(seed, 60, NODES, without=frozenset())

    assert of(1) == of(1) != of(2)
    drawn = [fault for seed in range(20) for faults in of(seed).values() for fault in faults]
    assert {fault.kind for fault in drawn} == set(Kind)
    assert {fault.moment for fault in drawn if fault.kind is Kind.KILL_WORKER} == set(MOMENTS)
    assert of(1).keys() == {CONTROL, STORE, *NODES}
    assert sum(map(len, of(1).values())) == 60
    assert Kind.FULL_DISK not in {
        fault.kind
        for each in draw(1, 600, NODES, without=frozenset({Kind.FULL_DISK})).values()
        for fault in each
    }


def test_an_answer_that_passes_in_pieces_has_told_its_upload() -> None:
    answer = b"<UploadId>a-first</UploadId>" + b" " * 5000 + b"<UploadId>a-second</UploadId>"
    cuts = [0, 4, 12, 5034, 5046, len(answer)]
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Link(f"http://127.0.0.1:{listener.getsockname()[1]}") as link,
        socket.create_connection(("127.0.0.1", urlsplit(link.url).port)) as client,
    ):
        server, _ = listener.accept()
        with server:
            for start, end in pairwise(cuts):
                server.sendall(answer[start:end])
                left = end - start
                while left:
                    left -= len(client.recv(left))
        wait_until(lambda: link.told_uploads == {"a-first", "a-second"}, "both to be noted")


# ---- the auditor

WORK = next(work for work in (Work.of(0, number) for number in range(100)) if not work.fail_at)
START, END = "2026-11-24T01:00:00.000Z", "2026-11-24T01:00:09.000Z"


def attempt(number: int, outcome: str | None, **more: Any) -> dict[str, Any]:
    about = {"attempt": number, "machine_id": "node0-1", "start": START, "end": END, "outcome": outcome}
    return about | {"exit_code": None, "signal": None, "reason": None, "stderr_tail": None} | more


def event(kind: str, number: int = 0) -> dict[str, Any]:
    return {"type": kind, "attempt": number}


class Objects(dict[str, bytes]):
    """A bucket, as far as the auditor looks into it."""

    def client(self) -> Objects:
        return self

    def get_paginator(self, name: str) -> Objects:
        return self

    def paginate(self, **where: str) -> list[dict[str, Any]]:
        return [{"Contents": [{"Key": key} for key in self]}]

    def get_object(self, *, Key: str, **where: str) -> dict[str, Any]:  # noqa: N803  (boto3's name)
        return {"Body": BytesIO(self[Key])}


@pytest.fixture
def site() -> SimpleNamespace:
    """One job that was interrupted, and then completed as it should."""
    attempts = [attempt(1, "interrupted"), attempt(2, "completed", exit_code=0)]
    story = [event("submitted"), event("running", 1), event("interrupted", 1), event("running", 2)]
    story.append(event("completed", 2))
    job = {"status": "completed", "num_failures": 0, "waiting_for": None, "attempts": attempts}
    return SimpleNamespace(
        the_job=job,
        story=story,
        objects=(objects := Objects(WORK.outputs(2))),
        job=lambda job_id: job,
        events=lambda job_id: story,
        key=lambda work, name: name,
        servers=SimpleNamespace(s3=objects),
        bucket="",
        machines=[SimpleNamespace(killed_commands=set(), ids_with_full_disk=set())],
    )


def told(site: SimpleNamespace) -> str:
    return "\n".join(auditor._job(site, "job-1", WORK))  # type: ignore[arg-type]


def test_the_auditor_has_nothing_to_say_of_a_job_that_went_well(site: SimpleNamespace) -> None:
    assert told(site) == ""


@pytest.mark.parametrize(
    ("attempts", "says"),
    [
        ([attempt(1, "interrupted"), attempt(3, "completed")], "numbered [1, 3]"),
        ([attempt(1, "interrupted", end=None), attempt(2, "completed")], "attempt 1 has no end"),
        ([attempt(1, None), attempt(2, "completed")], "attempt 1 has no end"),
        ([attempt(1, "completed"), attempt(2, "completed")], "completed 2 times"),
        ([attempt(1, "sync_failed"), attempt(2, "completed")], "nothing of its own failed"),
        ([attempt(1, "app_failed", exit_code=137, signal=9), attempt(2, "completed")], "nothing of its own"),
        ([attempt(1, "app_failed", exit_code=28), attempt(2, "completed")], "nothing of its own failed"),
        ([attempt(1, "app_failed"), attempt(2, "completed")], "0 failures are counted, 1 are in its history"),
        ([attempt(1, "released"), attempt(2, "completed")], "attempt 1 is released, its events tell of"),
    ],
)
def test_the_auditor_sees_a_wrong_history(
    site: SimpleNamespace, attempts: list[dict[str, Any]], says: str
) -> None:
    site.the_job["attempts"] = attempts
    assert says in told(site)


def test_a_failure_that_the_schedule_explains_is_no_violation(site: SimpleNamespace) -> None:
    shot = attempt(1, "app_failed", exit_code=137, signal=9)
    site.the_job |= {"attempts": [shot, attempt(2, "completed")], "num_failures": 1}
    site.story[2] = event("app_failed", 1)
    site.machines[0].killed_commands.add(("job-1", 1))
    assert told(site) == ""


def test_a_report_that_came_after_its_lease_had_expired_is_no_violation(site: SimpleNamespace) -> None:
    site.story[4:4] = [event("interrupted", 2), event("revived", 2), event("interrupted", 2)]
    assert told(site) == ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda story: story.pop(), "its events are"),
        (lambda story: story.append(event("completed", 2)), "its events are"),
        (lambda story: story.insert(3, event("released", 1)), "attempt 1 is interrupted, its events tell of"),
        (lambda story: story.pop(3), "its events tell of the attempts [1]"),
        (lambda story: story.pop(2), "attempt 1 is interrupted, its events tell of ['running']"),
    ],
)
def test_the_auditor_sees_an_event_too_few_or_too_many(
    site: SimpleNamespace, change: Callable[[list[Any]], Any], says: str
) -> None:
    change(site.story)
    assert says in told(site)


@pytest.mark.parametrize(
    ("key", "data", "says"),
    [
        ("out/result", b"7\n", "out/result holds b'7\\n'"),
        ("ck/by", b"1\n", "ck/by holds b'1\\n' (2 bytes) rather than b'2\\n'"),  # a zombie wrote it
        ("ck/state.tmp", b"", "ck/state.tmp is in the bucket, and should not be"),
        ("out/result", None, "out/result is not in the bucket"),
    ],
)
def test_the_auditor_sees_a_wrong_object(
    site: SimpleNamespace, key: str, data: bytes | None, says: str
) -> None:
    if data is None:
        del site.objects[key]
    else:
        site.objects[key] = data
    assert says in told(site)
