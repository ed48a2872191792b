"""`kelpie up`: everything on one machine, back after a restart, and nothing left behind however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from kelpie import Client
from kelpie.embedded.s3 import s3_client
from kelpie.errors import UnavailableError
from kelpie.job import JobStatus
from tests.waiting import wait_until

CONFIG = 78


@dataclass
class Up:
    """One `kelpie up` and what it printed."""

    process: subprocess.Popen[bytes]
    data: Path
    output: Path

    @property
    def said(self) -> str:
        return self.output.read_text()

    @property
    def variables(self) -> dict[str, str]:
        """What the printed export lines set."""
        return dict(re.findall(r"([A-Z0-9_]+)=(\S+)", "\n".join(re.findall(r"export .*", self.said))))

    def client(self) -> Client:
        return Client(self.variables["KELPIE_API_URL"], self.variables["KELPIE_API_KEY"])

    def stored(self, key: str) -> bytes:
        """An object in its bucket."""
        names = ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        with contextlib.closing(s3_client(*(self.variables[name] for name in names))) as client:
            return client.get_object(Bucket="kelpie", Key=key)["Body"].read()

    def ready(self) -> Up:
        wait_until(
            lambda: "Ctrl-C stops everything" in self.said or self.process.poll() is not None,
            "kelpie up is ready",
            timeout_s=60,
        )
        assert self.process.poll() is None, self.said
        return self

    def ended(self) -> int:
        return self.process.wait(60)

    def part(self, *words: str) -> int:
        """The process id of the part whose command line holds these words."""

        def found() -> int | None:
            for one in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if all(word in " ".join(one.cmdline()) for word in words):
                        return one.pid
            return None  # a process that is just becoming its program shows no command line

        return wait_until(found, f"there is a process {words}")


@contextlib.contextmanager
def kelpie_up(data: Path, *options: str) -> Iterator[Up]:
    """`kelpie up` as its own process, on any free port."""
    output = data.parent / "output.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "kelpie.cli", "up", "--port", "0", "--data", str(data), *options],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Up(process, data, output)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def processes_of(data: Path) -> list[str]:
    """Every process that runs in the folder, was started with its name, or carries it in its environment."""
    found = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if one.pid == os.getpid() or one.status() == psutil.STATUS_ZOMBIE:
                continue
            traces = [one.cwd(), *one.cmdline(), *one.environ().values()]
            if any(str(data) in trace for trace in traces):
                found.append(f"{one.pid} {' '.join(one.cmdline())[:80]}")
    return found


def assert_nothing_is_left(data: Path) -> None:
    wait_until(lambda: not processes_of(data), f"nothing is left of {data}: {processes_of(data)}")
    ports = data / "s3" / "ports.json"
    numbers = json.loads(ports.read_text()).values() if ports.exists() else ()
    assert not [port for port in numbers if list(Path("/tmp").glob(f"seaweedfs-*-{port}.sock"))]


LINGERING = """
(setsid sh -c 'cd /; echo $$ > "$KELPIE_STATE_FILE.daemon"; exec sleep 1000' >/dev/null 2>&1 &)
mkdir -p ckpt; echo started > ckpt/started
trap '' TERM
while :; do sleep 1000; done
"""


def start_lingering_job(up: Up) -> None:
    """A running job whose command ignores SIGTERM and has left a daemon behind."""
    with up.client() as client:
        job = client.submit(["sh", "-c", LINGERING], queue="default", heartbeat_interval=5)
        wait_until(lambda: client.job(job.id).status is JobStatus.RUNNING, "the job runs")
    wait_until(lambda: list(up.data.glob("nodes/*/state.json.daemon")), "its daemon runs")
    assert any("sleep 1000" in one for one in processes_of(up.data))


def test_jobs_keys_and_buckets_are_back_after_a_restart(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with kelpie_up(data, "--workers", "1") as first:
        first.ready()
        with first.client() as client:
            script = "mkdir -p out && echo hello > out/hello.txt"
            job = client.submit(["sh", "-c", script], queue="default", after=["out:s3://kelpie/hello"])
            assert client.wait(job.id, 30).status is JobStatus.COMPLETED
        assert first.stored("hello/hello.txt") == b"hello\n"
        credentials = data / "credentials.json"
        assert stat.S_IMODE(credentials.stat().st_mode) == 0o600
        assert stat.S_IMODE(data.stat().st_mode) == 0o700
        first.process.send_signal(signal.SIGINT)
        assert first.ended() == 0
        assert first.said.rstrip().endswith("Stopped.")
        assert_nothing_is_left(data)
    before = first.variables
    with kelpie_up(data, "--workers", "1") as second:
        second.ready()
        for name in ("KELPIE_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3"):
            assert second.variables[name] == before[name]
        with second.client() as client:
            assert client.job(job.id).status is JobStatus.COMPLETED
        assert second.stored("hello/hello.txt") == b"hello\n"
        secrets = [before["KELPIE_API_KEY"], before["AWS_SECRET_ACCESS_KEY"]]
        logs = "".join(log.read_text(errors="replace") for log in (data / "logs").iterdir())
        assert not [secret for secret in secrets if secret in logs]


def test_nothing_is_left_when_it_is_killed_and_it_starts_again(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with kelpie_up(data) as up:
        start_lingering_job(up.ready())
        up.process.kill()
        up.process.wait()
        assert_nothing_is_left(data)
    with kelpie_up(data) as again:
        again.ready()
        with again.client() as client:
            (job,) = client.jobs()
            assert job.status is JobStatus.RUNNING
            assert job.num_failures == 0


def test_nothing_is_left_when_its_guard_is_killed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with kelpie_up(data) as up:
        start_lingering_job(up.ready())
        os.kill(up.part("kelpie.embedded.guard"), signal.SIGKILL)
        assert up.ended() != 0
        assert_nothing_is_left(data)


def test_a_second_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with kelpie_up(data) as up:
        start_lingering_job(up.ready())  # its command ignores SIGTERM: order would take its grace
        up.process.send_signal(signal.SIGINT)
        wait_until(lambda: "Stopping" in up.said, "it begins to stop")
        up.process.send_signal(signal.SIGINT)
        assert up.ended() == 0
        assert_nothing_is_left(data)


PARTS = (("valkey-server",), ("weed",), ("kelpie.cli", "api"), ("node-1",), ("node-2",))


def test_each_part_that_dies_is_started_again(tmp_path: Path) -> None:
    with kelpie_up(tmp_path / "data") as up:
        up.ready()
        for number, words in enumerate(PARTS, 1):
            kill_and_use(up, words, number)


def kill_and_use(up: Up, words: Sequence[str], number: int) -> None:
    """The part of these words dies, as the so-manyth; when it is back, a job completes."""
    os.kill(up.part(*words), signal.SIGKILL)
    wait_until(lambda: up.said.count("is back") == number, f"{words} is back")
    script = f"mkdir -p out && echo {number} > out/{number}.txt"
    with up.client() as client:

        def submitted() -> str | None:
            with contextlib.suppress(UnavailableError):
                return client.submit(
                    ["sh", "-c", script], queue="default", after=["out:s3://kelpie/again"]
                ).id
            return None

        assert client.wait(wait_until(submitted, "a job is accepted"), 60).status is JobStatus.COMPLETED
    assert up.stored(f"again/{number}.txt") == f"{number}\n".encode()


def test_a_node_that_asks_to_be_replaced_is(tmp_path: Path) -> None:
    with kelpie_up(tmp_path / "data", "--workers", "1") as up, up.ready().client() as client:
        jobs = client.submit_many(
            {"command": "false", "container_group_id": "default", "sync": {}, "max_failures": 2}
            for _ in range(5)
        )
        for job in jobs:
            assert client.wait(job.id, 60).status is JobStatus.FAILED
            assert [one.node for one in client.attempts(job.id)] == ["node-1", "node-2"]
        assert "node-1 asked to be replaced: node-2 takes its place" in up.said


def test_a_folder_serves_one_at_a_time(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with kelpie_up(data, "--workers", "0") as up:
        up.ready()
        second = subprocess.run(
            [sys.executable, "-m", "kelpie.cli", "up", "--port", "0", "--data", str(data)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert second.returncode == CONFIG
        assert f"{data} is in use by another" in second.stderr
        with up.client() as client:
            assert client.me().username == "local"


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with kelpie_up(tmp_path / "data", "--port", str(port)) as up:
            assert up.ended() == CONFIG
    assert f"port {port} is taken" in up.said
    assert_nothing_is_left(tmp_path / "data")
