from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

from kelpie_worker.state import MAX_ENDED_JOBS, StateFile
from tests.waiting import wait_until

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def test_it_has_exactly_the_documented_shape(tmp_path: Path) -> None:
    state = StateFile(tmp_path / "new" / "state.json")
    state.open()
    assert read(state.path)["jobs"] == []
    state.job_started("a")
    state.download_started("a", "/input/x")
    state.upload_started("a", "/ck/y")
    wait_until(lambda: read(state.path)["jobs"][0]["activeUploads"], "the transfers to show")
    document = read(state.path)
    assert document.keys() == {"start", "jobs"}
    assert TIME.fullmatch(document["start"])
    (job,) = document["jobs"]
    assert TIME.fullmatch(job.pop("start"))
    assert job == {
        "id": "a",
        "status": "running",
        "activeUploads": ["/ck/y"],
        "activeDownloads": ["/input/x"],
        "uploadBacklog": {"files": 0, "bytes": 0, "oldestChange": None},
        "exitTime": None,
        "exitCode": None,
        "end": None,
    }
    state.upload_ended("a", "/ck/y")
    state.download_ended("a", "/input/x")
    state.command_exited("a", 0)
    assert (read(state.path)["jobs"][0]["status"], read(state.path)["jobs"][0]["exitCode"]) == ("running", 0)
    state.job_ended("a", completed=True)
    (job,) = read(state.path)["jobs"]
    assert (job["status"], job["activeUploads"], job["activeDownloads"]) == ("completed", [], [])
    assert TIME.fullmatch(job["exitTime"])
    assert TIME.fullmatch(job["end"])
    state.close()


def test_a_job_that_left_this_node_is_forgotten_and_may_come_back(tmp_path: Path) -> None:
    state = StateFile(tmp_path / "state.json")
    state.open()
    state.job_started("a")
    state.job_left("a")
    assert read(state.path)["jobs"] == []
    state.upload_ended("a", "late")  # a transfer that ends after its job is nobody's news
    state.job_started("a")
    state.job_ended("a", completed=False)
    state.job_started("a")
    state.close()
    assert [job["status"] for job in read(state.path)["jobs"]] == ["failed", "running"]


def test_it_does_not_grow_for_ever(tmp_path: Path) -> None:
    state = StateFile(tmp_path / "state.json")
    state.open()
    state.job_started("running")
    for number in range(MAX_ENDED_JOBS + 20):
        state.job_started(f"job-{number}")
        state.job_ended(f"job-{number}", completed=True)
    state.close()
    jobs = read(state.path)["jobs"]
    assert len(jobs) == MAX_ENDED_JOBS + 1
    assert jobs[0]["id"] == "running"
    assert jobs[-1]["id"] == f"job-{MAX_ENDED_JOBS + 19}"


def test_a_reader_never_sees_it_half_written(tmp_path: Path) -> None:
    state = StateFile(tmp_path / "state.json")
    state.open()
    state.job_started("a")
    done = threading.Event()
    wrong: list[str] = []
    seen = 0

    def reader() -> None:
        nonlocal seen
        while not done.is_set():
            text = state.path.read_text()
            try:
                assert json.loads(text).keys() == {"start", "jobs"}
            except (ValueError, AssertionError):
                wrong.append(text)
            seen += 1

    def writer(name: str) -> None:
        for number in range(150):
            state.upload_started("a", f"{name}/{number}" * 20)
            state.job_started(f"{name}-{number}")
            state.upload_ended("a", f"{name}/{number}" * 20)

    threads = [threading.Thread(target=writer, args=(name,)) for name in "xyz"]
    watching = threading.Thread(target=reader)
    watching.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    watching.join()
    state.close()
    assert not wrong
    assert seen > 0
    assert read(state.path)["jobs"][0]["activeUploads"] == []
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_a_file_that_cannot_be_written_harms_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    state = StateFile(tmp_path / "file" / "state.json")
    state.open()
    state.job_started("a")
    state.close()
