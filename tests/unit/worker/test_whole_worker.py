"""The worker as a process of its own: what it imports, how it ends, what it says."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kelpie
import kelpie_worker
from tests.unit.worker.conftest import ScriptedServer
from tests.waiting import wait_until

SECRET = "klp_hunter2_hunter2_hunter2"


def test_over_http_it_imports_neither_the_servers_parts_nor_what_it_may_never_need() -> None:
    script = (
        "import sys\n"
        "import kelpie_worker.main, kelpie_worker.sync\n"
        "from kelpie_worker.http_queue import HttpQueue\nfrom kelpie_worker.settings import Settings\n"
        "from kelpie_worker.sync import SyncEngine\nfrom kelpie_worker.state import StateFile\n"
        "settings = Settings.from_env({})\nHttpQueue(settings)\n"
        "SyncEngine(settings.sync, StateFile(settings.state_file))\n"
        "heavy = ('redis', 'rq', 'flask', 'pydantic', 'pydantic_settings', 'boto3', 'botocore', 'watchdog')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_without_the_redis_package_the_error_names_the_extra() -> None:
    script = (
        "import sys\nsys.modules['redis'] = None\n"
        "from kelpie.errors import StartupError\nfrom kelpie_worker.redis_queue import RedisQueue\n"
        "from kelpie_worker.settings import Settings\n"
        "try: RedisQueue(Settings.from_env({'KELPIE_API_URL': 'redis://h'}))\n"
        "except StartupError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "kelpie-jobs[worker,direct]" in done.stdout


@pytest.fixture
def worker(server: ScriptedServer, tmp_path: Path) -> Iterator[Any]:
    started: list[subprocess.Popen[str]] = []

    def start(**env: str) -> subprocess.Popen[str]:
        base = {
            name: value for name, value in os.environ.items() if not name.startswith(("KELPIE_", "SALAD_"))
        }
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from kelpie.cli.worker import command; command()",
                "--queue",
                "q",
                "--machine-id",
                "node-1",
            ],
            cwd=tmp_path,
            env=base | {"KELPIE_API_URL": server.url, "KELPIE_API_KEY": SECRET} | env,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def test_an_idle_worker_ends_at_once_and_in_good_order(server: ScriptedServer, worker: Any) -> None:
    server.answer = lambda request: (200, [])
    process = worker()
    wait_until(lambda: server.requests, "the first poll")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_a_notice_of_its_cloud_ends_a_worker_in_good_order(server: ScriptedServer, worker: Any) -> None:
    def answer(request: Any) -> tuple[int, Any]:
        if request.path == "/latest/api/token":
            return 200, b"token"
        if request.path == "/latest/meta-data/spot/instance-action":
            return 200, {"action": "stop", "time": "2026-11-24T18:00:00Z"}
        return 200, []

    server.answer = answer
    process = worker(KELPIE_IMDS_URL=server.url)
    assert process.wait(30) == 0
    assert "EC2 will stop this instance" in process.stderr.read()


def test_sigusr1_ends_a_worker_when_its_job_is_done(
    server: ScriptedServer, worker: Any, tmp_path: Path
) -> None:
    script = "touch up; while [ ! -e go ]; do sleep 0.02; done"
    job = {"id": "job-1", "command": "sh", "arguments": ["-c", script], "container_group_id": "q", "sync": {}}

    def answer(request: Any) -> tuple[int, Any]:
        if request.path.startswith("/work"):
            return 200, [job]
        return 200, {"status": "running", "message": "ok"}

    server.answer = answer
    process = worker()
    wait_until((tmp_path / "up").exists, "the command to be up")
    process.send_signal(signal.SIGUSR1)
    (tmp_path / "go").touch()
    assert process.wait(60) == 0
    reports = [r.path for r in server.requests if r.method == "POST" and not r.path.endswith("/heartbeat")]
    assert reports == ["/jobs/job-1/completed"]


def test_sigterm_releases_the_running_job_and_no_secret_is_logged(
    server: ScriptedServer, worker: Any, tmp_path: Path
) -> None:
    job = {
        "id": "job-1",
        "command": "sh",
        "arguments": ["-c", "touch up; while :; do sleep 0.02; done"],
        "environment": {"TOKEN": "hunter2"},
        "container_group_id": "q",
        "sync": {},
        "attempt": 1,
        "lease": "lease_hunter2",
    }
    handed: list[str] = []

    def answer(request: Any) -> tuple[int, Any]:
        if request.path.startswith("/work"):
            first = not handed
            handed.append(request.path)
            return 200, [job] if first else []
        return 200, {"status": "running", "message": "ok"}

    server.answer = answer
    process = worker()
    wait_until((tmp_path / "up").exists, "the command to be up")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert [r.path for r in server.requests if r.path.endswith("/released")] == ["/jobs/job-1/released"]
    said = process.stderr.read()
    assert "job released" in said
    assert '"attempt": 1' in said
    assert "hunter2" not in said


def test_a_second_signal_ends_it_at_once_with_its_command(
    server: ScriptedServer, worker: Any, tmp_path: Path
) -> None:
    script = "trap '' TERM; echo $$ > pid; touch up; while :; do sleep 0.02; done"
    job = {"id": "job-1", "command": "sh", "arguments": ["-c", script], "container_group_id": "q", "sync": {}}
    answers: list[Any] = [[job]]

    def answer(request: Any) -> tuple[int, Any]:
        if request.path.startswith("/work"):
            return 200, answers.pop() if answers else []
        return 200, {"status": "running"}

    server.answer = answer
    process = worker(KELPIE_GRACE_S="3600")
    wait_until((tmp_path / "up").exists, "the command to be up")
    command = int((tmp_path / "pid").read_text())

    def ended() -> bool:
        process.send_signal(signal.SIGTERM)  # signals that arrive together count once
        return process.poll() is not None

    wait_until(ended, "the worker to end")
    assert process.returncode == 0
    assert not Path(f"/proc/{command}").exists()
    assert not [r for r in server.requests if r.path.endswith("/released")]


def test_a_job_runs_though_the_files_of_its_worker_have_been_replaced(
    server: ScriptedServer, worker: Any, tmp_path: Path
) -> None:
    installed = tmp_path / "site-packages"
    for package in (kelpie, kelpie_worker):
        source = Path(package.__file__).parent
        shutil.copytree(source, installed / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    job = {"id": "job-1", "command": "true", "arguments": [], "container_group_id": "q", "sync": {}}
    jobs: list[Any] = []

    def answer(request: Any) -> tuple[int, Any]:
        if request.path.startswith("/work"):
            return 200, [jobs.pop()] if jobs else []
        return 200, {"status": "running", "message": "ok"}

    server.answer = answer
    worker(PYTHONPATH=str(installed))
    wait_until(lambda: server.requests, "the first poll")
    shutil.rmtree(installed)
    jobs.append(job)
    wait_until(
        lambda: [r for r in server.requests if r.path == "/jobs/job-1/completed"], "the job to complete"
    )


def test_bad_settings_are_told_by_name_and_code(worker: Any) -> None:
    process = worker(KELPIE_GRACE_S="soon")
    assert process.wait(30) == 78
    assert "KELPIE_GRACE_S" in process.stderr.read()
