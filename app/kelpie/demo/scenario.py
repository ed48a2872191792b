"""What happens in the demo: start, submit, kill the node, resume elsewhere, compare."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kelpie.client import Client, Job, job_spec
from kelpie.demo import ising
from kelpie.demo.view import Moment, View
from kelpie.embedded.options import Options, Ready
from kelpie.embedded.platform import Platform
from kelpie.embedded.processes import spawn, terminate
from kelpie.embedded.s3 import s3_client
from kelpie.job import Attempt, JobSpec, JobStatus

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SIZE = 512
CHECKPOINT_S = 1.0
HEARTBEAT_S = 2  # so a dead node is noticed within 4 s
PREFIX = "demo"

_COMPUTE_S = 20.0  # of one uninterrupted run, about
_DEADLINE_S = 80.0  # from the submit to the verified result
_POLL_S = 0.2
_CALIBRATION_S = 0.5
_NEVER_S = 86_400.0

NODE_ENVIRONMENT = {
    # A checkpoint every second: upload each as soon as it is in place.
    "FILE_WATCHER_DEBOUNCE_MS": "100",
    "FILE_WATCHER_MAX_WAIT_MS": "1000",
    # One core per process: the machine runs two simulations at once.
    "OMP_NUM_THREADS": "1",
}


class DemoFailed(Exception):
    """The demo did not show what it promises; the text says what happened instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What the node's death cost."""

    killed_at: int  # sweep
    resumed_at: int  # sweep
    redone_s: float  # seconds of computing done twice
    waited_s: float  # seconds in which no node had the job


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A verified demo."""

    attempts: list[Attempt]
    loss: Loss
    sweeps: int
    digest: str  # sha256 of the spins


def run(data: Path, view: View) -> Result:
    """Run the whole demo in ``data``. DemoFailed or KelpieError when something is not as promised."""
    options = Options(
        data=str(data),
        port=0,
        nodes=2,
        node_restart_s=_NEVER_S,  # a machine that is gone stays gone
        node_environment=NODE_ENVIRONMENT,
    )
    view.say("starting a broker, the API, an S3 server and two nodes on this machine")
    with Platform(options) as platform:
        ready = platform.ready
        view.say(f"up: API {ready.url}, S3 {ready.s3_endpoint}")
        story = _Story(data, ready, view)
        try:
            return story.tell()
        finally:
            story.close()


class _Story:
    """One job, from its submit to its verified result."""

    def __init__(self, data: Path, ready: Ready, view: View) -> None:
        self.data = data
        self.ready = ready
        self.view = view
        self.client = Client(ready.url, ready.key)
        self.s3 = _client(ready)
        self.sweeps = _sweeps_in(_COMPUTE_S)
        self.arguments = ["--seed", "7", "--size", str(SIZE), "--sweeps", str(self.sweeps)]
        self.deadline = time.monotonic() + _DEADLINE_S
        self.reference = data / "reference"
        self.reference.mkdir(exist_ok=True)
        # The same computation, never interrupted and without Kelpie, beside it.
        self.uninterrupted = spawn(
            [sys.executable, "-m", "kelpie.demo.ising", *self.arguments, "--folder", str(self.reference)],
            log=data / "logs" / "reference.log",
            env=os.environ | NODE_ENVIRONMENT,
        )
        self._etag = ""
        self._stored: int | None = None  # the sweep of the checkpoint in the bucket

    def tell(self) -> Result:
        """The whole story. DemoFailed when it goes otherwise."""
        job = self.client.submit_job(self._spec())
        self.view.say(f"submitted job {job.id}: {self.sweeps:,} Monte-Carlo sweeps of {SIZE} x {SIZE} spins")
        job = self._until(job.id, lambda now: bool(self._progress(now)), "start of its command")
        began, first = time.monotonic(), self._progress(job)["sweep"]
        job = self._until(job.id, self._is_half_way, "half, with a checkpoint in the bucket")
        victim = str(job.machine_id)
        os.kill(self.ready.nodes[victim], signal.SIGKILL)
        died = time.monotonic()
        killed_at = self._progress(job)["sweep"]
        self.view.say(f"killed {victim} with SIGKILL at sweep {killed_at:,}", "bold red")
        attempt = job.attempt
        job = self._until(job.id, lambda now: now.attempt > attempt, "next node")
        waited_s = time.monotonic() - died
        if job.machine_id == victim:
            raise DemoFailed(f"the job went back to {victim}, which is dead")
        self.view.say(f"{job.machine_id} took the job over after {waited_s:.1f} s", "bold green")
        job = self._until(job.id, lambda now: bool(self._progress(now)), "resumption")
        resumed_at = self._progress(job)["resumed_at"]
        self.view.say(f"it goes on from the checkpoint of sweep {resumed_at:,}")
        job = self._until(job.id, lambda now: now.done, "end")
        if job.status is not JobStatus.COMPLETED or job.num_failures:
            raise DemoFailed(f"the job is {job.status} after {job.num_failures} failures")
        self.view.say("the job is completed; comparing its output with the uninterrupted run's")
        digest = self._compare()
        sweep_s = (died - began) / max(1, killed_at - first)
        loss = Loss(
            killed_at=killed_at,
            resumed_at=resumed_at,
            redone_s=(killed_at - resumed_at) * sweep_s,
            waited_s=waited_s,
        )
        return Result(attempts=self.client.attempts(job.id), loss=loss, sweeps=self.sweeps, digest=digest)

    def close(self) -> None:
        """End what was started beside the platform."""
        terminate(self.uninterrupted, grace_s=1)
        self.client.close()
        self.s3.close()

    def _spec(self) -> JobSpec:
        checkpoints = f"s3://{self.ready.bucket}/{PREFIX}/ckpt"
        return job_spec(
            [sys.executable, "-m", "kelpie.demo.ising", *self.arguments, "--checkpoint-s", str(CHECKPOINT_S)],
            queue=self.ready.queue,
            before=[f"{checkpoints}:ckpt"],
            during=[f"ckpt:{checkpoints}"],
            after=[f"out:s3://{self.ready.bucket}/{PREFIX}/out"],
            heartbeat_interval=HEARTBEAT_S,
        )

    def _until(self, job_id: str, reached: Callable[[Job], bool], goal: str) -> Job:
        """Show how things stand until ``reached``; the job then."""
        while True:
            job = self.client.job(job_id)
            self._look_into_bucket()
            self.view.show(
                Moment(
                    status=job.status,
                    node=job.machine_id,
                    attempt=job.attempt,
                    sweep=self._progress(job).get("sweep", self._stored or 0),
                    stored=self._stored,
                    sweeps=self.sweeps,
                    waiting_for=job.waiting_for,
                )
            )
            if reached(job):
                return job
            if job.done:
                raise DemoFailed(f"the job is {job.status} before its {goal}")
            if time.monotonic() > self.deadline:
                raise DemoFailed(f"the job did not reach its {goal} in time; it is {job.status}")
            time.sleep(_POLL_S)

    def _is_half_way(self, job: Job) -> bool:
        return self._stored is not None and self._progress(job).get("sweep", 0) >= self.sweeps // 2

    def _progress(self, job: Job) -> dict[str, int]:
        """How far the command of this attempt is, as its node's folder tells; empty before it started."""
        file = self.data / "nodes" / str(job.machine_id) / "work" / ising.PROGRESS
        try:
            found = json.loads(file.read_text())
        except FileNotFoundError:
            return {}
        if found["job"] != job.id:
            return {}
        return {name: int(found[name]) for name in ("sweep", "resumed_at")}

    def _look_into_bucket(self) -> None:
        """Find the sweep of the last checkpoint that is durable."""
        key = f"{PREFIX}/ckpt/{ising.CHECKPOINT}"
        listed = self.s3.list_objects_v2(Bucket=self.ready.bucket, Prefix=key).get("Contents", [])
        if listed and listed[0]["ETag"] != self._etag:
            answer = self.s3.get_object(Bucket=self.ready.bucket, Key=key)
            self._stored = ising.Run.load(answer["Body"].read()).sweeps
            self._etag = answer["ETag"]

    def _compare(self) -> str:
        """Hold every output file in the bucket against the uninterrupted run's; the digest of the spins."""
        try:
            code = self.uninterrupted.wait(max(1.0, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise DemoFailed("the uninterrupted run did not end in time") from None
        if code != 0:
            raise DemoFailed(f"the uninterrupted run ended with {code}; see {self.data}/logs/reference.log")
        digest = ""
        for name in (ising.MAGNETIZATION, ising.SPINS):
            expected = (self.reference / "out" / name).read_bytes()
            key = f"{PREFIX}/out/{name}"
            stored = self.s3.get_object(Bucket=self.ready.bucket, Key=key)["Body"].read()
            if stored != expected:
                raise DemoFailed(f"s3://{self.ready.bucket}/{key} differs from the uninterrupted run's")
            digest = hashlib.sha256(stored).hexdigest()
        return digest


def _client(ready: Ready) -> S3Client:
    return s3_client(ready.s3_endpoint, ready.s3_access_key, ready.s3_secret_key)


def _sweeps_in(seconds: float) -> int:
    """How many sweeps this machine computes in about that time when two runs share it."""
    trial = ising.Run.new(0, SIZE)
    trial.sweep()  # warm up
    sweeps, began = 0, time.monotonic()
    while time.monotonic() - began < _CALIBRATION_S:
        trial.sweep()
        sweeps += 1
    share = min(1.0, len(os.sched_getaffinity(0)) / 2)
    return max(100, int(share * seconds * sweeps / _CALIBRATION_S))
