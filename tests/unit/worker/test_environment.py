from __future__ import annotations

from pathlib import Path

import pytest

from kelpie_worker.environment import STORAGE_CREDENTIALS, WORKER_SECRETS, command_environment
from tests.unit.worker.doubles import settings, shell_job


def test_the_workers_credentials_never_reach_the_command(tmp_path: Path) -> None:
    container = dict.fromkeys(WORKER_SECRETS, "secret") | {"HOME": "/root"}
    env = command_environment(shell_job("true"), settings(tmp_path), container)
    assert "secret" not in env.values()
    assert env["HOME"] == "/root"


@pytest.mark.parametrize(
    ("url", "passes"),
    [
        ("redis://:pw@host/0", False),
        ("redis://host/0", False),
        ("unix:///run/redis.sock", False),
        ("https://user:pw@host", False),
        ("https://host", True),
    ],
)
def test_an_api_url_that_is_a_credential_stays_with_the_worker(
    tmp_path: Path, url: str, passes: bool
) -> None:
    env = command_environment(shell_job("true"), settings(tmp_path), {"KELPIE_API_URL": url})
    assert ("KELPIE_API_URL" in env) is passes


def test_storage_credentials_pass_unless_hidden(tmp_path: Path) -> None:
    container = dict.fromkeys(STORAGE_CREDENTIALS, "secret") | {"AWS_REGION": "r"}
    job = shell_job("true")
    assert command_environment(job, settings(tmp_path), container).items() >= container.items()
    hidden = command_environment(job, settings(tmp_path, hide_storage_credentials=True), container)
    assert not STORAGE_CREDENTIALS & hidden.keys()
    assert hidden["AWS_REGION"] == "r"


def test_the_jobs_environment_is_above_the_containers(tmp_path: Path) -> None:
    job = shell_job(
        "true", environment={"LD_LIBRARY_PATH": "/j", "PATH": "/j/bin", "KELPIE_API_KEY": "the user's own"}
    )
    env = command_environment(job, settings(tmp_path), {"PATH": "/bin", "KELPIE_API_KEY": "the worker's"})
    assert (env["LD_LIBRARY_PATH"], env["PATH"], env["KELPIE_API_KEY"]) == ("/j", "/j/bin", "the user's own")


def test_the_command_learns_its_job_its_attempt_its_folders_and_its_state_file(tmp_path: Path) -> None:
    job = shell_job("true", attempt=4, environment={"KELPIE_JOB_ID": "forged"})
    env = command_environment(job, settings(tmp_path, input_dir="/in"), {})
    assert env == {
        "INPUT_DIR": "/in",
        "OUTPUT_DIR": "/output",
        "CHECKPOINT_DIR": "/checkpoint",
        "KELPIE_JOB_ID": "job-1",
        "KELPIE_ATTEMPT": "4",
        "KELPIE_STATE_FILE": str(tmp_path / "state.json"),
        "KELPIE_PROGRESS_FILE": str(tmp_path / ".state.json.progress"),
    }


def test_the_path_of_the_state_file_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    env = command_environment(shell_job("true"), settings(tmp_path, state_file=Path("s.json")), {})
    assert env["KELPIE_STATE_FILE"] == str(tmp_path / "s.json")
