"""`kelpie up --autoscale`: nodes come with the jobs and go after them, and no job is disturbed by that."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from kelpie import Client
from kelpie.cli import exit_codes
from kelpie.embedded.options import SCALED_QUEUE
from kelpie.errors import UnavailableError
from kelpie.job import JobStatus
from kelpie.scaling import Action
from tests.system.test_up import Up, assert_nothing_is_left, kelpie_up
from tests.waiting import wait_until


def nodes(up: Up) -> set[str]:
    """The nodes whose worker process exists."""
    found = set()
    for one in psutil.Process(up.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            words = one.cmdline()
            if "worker" in words and "--machine-id" in words:
                found.add(words[words.index("--machine-id") + 1])
    return found


def blocked(client: Client, folder: Path, count: int) -> dict[str, Path]:
    """Jobs that run until their file is there: id → file."""
    jobs = {}
    for number in range(count):
        file = folder / f"go-{number}"
        command = ["sh", "-c", f"while [ ! -e {file} ]; do sleep 0.05; done"]
        jobs[client.submit(command, queue=SCALED_QUEUE, heartbeat_interval=5).id] = file
    return jobs


def holders(client: Client, jobs: dict[str, Path]) -> dict[str, str]:
    """Node → job, once every job is on one."""

    def found() -> dict[str, str] | None:
        held = [client.job(job) for job in jobs]
        if any(job.status is not JobStatus.RUNNING for job in held):
            return None
        return {str(job.machine_id): job.id for job in held}

    return wait_until(found, "every job is on a node", timeout_s=60)


def assert_undisturbed(client: Client, job_id: str, status: JobStatus) -> None:
    job = client.job(job_id)
    assert (job.status, job.attempt, job.num_failures) == (status, 1, 0)


def test_rule_09_nodes_come_with_the_jobs_drain_the_queue_and_go(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with kelpie_up(data, "--autoscale", "--max", "3") as up:
        up.ready()
        assert f"queue {SCALED_QUEUE}" in up.said
        assert nodes(up) == set()
        with up.client() as client:
            jobs = client.submit_many(
                {"command": "sleep", "arguments": ["0.3"], "container_group_id": SCALED_QUEUE, "sync": {}}
                for _ in range(20)
            )
            most = 0

            def drained() -> bool:
                nonlocal most
                most = max(most, len(nodes(up)))
                return not client.jobs(status=JobStatus.PENDING, limit=1)

            wait_until(drained, "every job was begun", timeout_s=60)
            assert most == 3
            for job in jobs:
                assert client.wait(job.id, 60).status is JobStatus.COMPLETED
                assert_undisturbed(client, job.id, JobStatus.COMPLETED)
            assert 1 < len({client.job(job.id).machine_id for job in jobs}) <= 3
            wait_until(lambda: not nodes(up), "no node is left", timeout_s=60)
            wait_until(lambda: not list((data / "nodes").iterdir()), "nor anything of one")
            kept = reversed(client.scaling_decisions(SCALED_QUEUE))
            actions = [one.decision.action for one in kept if one.decision.acts]
            assert (actions[0], actions[-1]) == (Action.START, Action.STOP)
            # And once more from zero, with new nodes.
            again = client.submit(["true"], queue=SCALED_QUEUE)
            assert client.wait(again.id, 60).status is JobStatus.COMPLETED
            assert client.job(again.id).machine_id not in {client.job(job.id).machine_id for job in jobs}
        up.process.send_signal(signal.SIGINT)
        assert up.ended() == 0
        assert_nothing_is_left(data)


def test_rule_09_a_busy_node_is_not_the_one_that_goes(tmp_path: Path) -> None:
    with kelpie_up(tmp_path / "data", "--autoscale", "--max", "3") as up, up.ready().client() as client:
        client.set_scaling_rule(SCALED_QUEUE, idle_threshold_s=0)
        jobs = blocked(client, tmp_path, 3)
        held = holders(client, jobs)
        assert set(held) == nodes(up)
        *idle, busy = sorted(held)  # the newest one, which would be the first to go if all were idle
        for node in idle:
            jobs[held[node]].touch()
        wait_until(lambda: nodes(up) == {busy}, "the idle nodes are gone", timeout_s=60)
        assert_undisturbed(client, held[busy], JobStatus.RUNNING)
        jobs[held[busy]].touch()
        wait_until(lambda: not nodes(up), "the last one is gone", timeout_s=60)
        for job in jobs:
            assert_undisturbed(client, job, JobStatus.COMPLETED)


def test_rule_09_when_all_nodes_are_busy_each_goes_when_its_job_has_ended(tmp_path: Path) -> None:
    with kelpie_up(tmp_path / "data", "--autoscale", "--max", "3") as up, up.ready().client() as client:
        client.set_scaling_rule(SCALED_QUEUE, idle_threshold_s=0)
        jobs = blocked(client, tmp_path, 3)
        held = holders(client, jobs)
        client.set_scaling_rule(SCALED_QUEUE, max_replicas=1)
        wait_until(
            lambda: client.container_groups()[0].group.running_replicas == 1,
            "one node is wanted",
            timeout_s=60,
        )
        first, second, last = sorted(held)
        for gone, left in ((second, {first, last}), (last, {first})):
            jobs[held[gone]].touch()
            wait_until(lambda left=left: nodes(up) == left, f"{gone} is gone", timeout_s=60)
            for node in left:
                assert_undisturbed(client, held[node], JobStatus.RUNNING)
        jobs[held[first]].touch()
        for job in jobs:
            client.wait(job, 60)
            assert_undisturbed(client, job, JobStatus.COMPLETED)


def test_a_minimum_of_nodes_is_there_without_any_job(tmp_path: Path) -> None:
    queue = "0c6b4b6e-2f4a-4c57-9d0e-5b8a2b6f1d3c"
    options = ("--autoscale", "--min", "1", "--max", "2", "--queue", queue)
    with kelpie_up(tmp_path / "data", *options) as up:
        up.ready()
        assert f"nodes 1 to 2 as the queue needs them, queue {queue}" in up.said
        wait_until(lambda: nodes(up) == {"node-1"}, "there is a node", timeout_s=60)
        os.kill(up.part("node-1"), signal.SIGKILL)
        wait_until(lambda: "node-1 is back" in up.said, "it is replaced when it dies")
        with up.client() as client:
            job = client.submit(["true"], queue=queue)
            assert client.wait(job.id, 60).status is JobStatus.COMPLETED


def test_a_job_that_fails_finds_another_node_even_if_there_is_one_at_a_time(tmp_path: Path) -> None:
    with kelpie_up(tmp_path / "data", "--autoscale", "--max", "1") as up, up.ready().client() as client:
        job = client.submit(["false"], queue=SCALED_QUEUE, max_failures=2)
        assert client.wait(job.id, 60).status is JobStatus.FAILED
        assert [one.node for one in client.attempts(job.id)] == ["node-1", "node-2"]
        wait_until(lambda: not nodes(up), "no node is left", timeout_s=60)


def test_scaling_goes_on_when_the_platform_and_the_api_have_died(tmp_path: Path) -> None:
    with kelpie_up(tmp_path / "data", "--autoscale", "--max", "2") as up, up.ready().client() as client:
        client.set_scaling_rule(SCALED_QUEUE, idle_threshold_s=0)
        jobs = blocked(client, tmp_path, 2)
        held = holders(client, jobs)
        for words in (("kelpie.cli", "platform"), ("kelpie.cli", "api", "--bind")):
            os.kill(up.part(*words), signal.SIGKILL)
        wait_until(lambda: len(re.findall("(api|platform) is back", up.said)) == 2, "both are back")

        def answers() -> bool:
            with contextlib.suppress(UnavailableError):
                return client.me().username == "local"
            return False

        wait_until(answers, "the API answers")
        assert nodes(up) == set(held)
        for job, file in jobs.items():
            assert client.job(job).attempt == 1
            file.touch()
        wait_until(lambda: not nodes(up), "no node is left", timeout_s=60)
        for job in jobs:
            assert_undisturbed(client, job, JobStatus.COMPLETED)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max", "3"], "--min and --max go with --autoscale"),
        (["--min", "0"], "--min and --max go with --autoscale"),
        (["--autoscale", "--workers", "2"], "give --max, not --workers"),
        (["--autoscale", "--min", "3", "--max", "2"], "3 is above --max 2"),
        (["--autoscale", "--queue", "sims"], "'sims' is not a UUID"),
        (["--autoscale", "--max", "65"], "65"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(tmp_path: Path, options: list[str], said: str) -> None:
    argv = [sys.executable, "-m", "kelpie.cli", "up", "--data", str(tmp_path / "data"), *options]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == exit_codes.USAGE
    assert said in done.stderr
    assert not (tmp_path / "data").exists()
