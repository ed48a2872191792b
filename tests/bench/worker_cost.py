"""Prints what a worker takes for itself: idle, beside a quiet command, one that writes checkpoints, one that
prints.

Run: ``python -m tests.bench.worker_cost``. A tiny HTTP server stands in for the API, a real S3 server stores.
Goal: an idle worker holds less than 60 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil

from kelpie.embedded.s3 import REGION, S3Server
from tests.bench.figures import load
from tests.waiting import wait_until

GOAL_MB = 60
BUCKET = "bench"

PRINTS = """
import time
while True:
    begun = time.monotonic()
    for n in range(100):
        print(f"step {n} loss 0.123456 lr 0.001 and some more words, as programs say them")
    time.sleep(max(0, begun + 0.1 - time.monotonic()))
"""
SAVES = """
import os, time
n = 0
while True:
    with open("ck/.new", "wb") as file:
        file.write(os.urandom(1 << 20) * 10)
    os.replace("ck/.new", f"ck/{n % 3}.ckpt")
    n += 1
    time.sleep(2)
"""
REPORTS = """
import time
from kelpie.job import report
for step in range(1_000_000_000):
    report(step, 1_000_000_000, loss=0.5)
    time.sleep(0.001)
"""
CASES = {
    "no job": None,
    "a quiet command": "import time; time.sleep(1e6)",
    "a command that tells its progress all the time": REPORTS,
    "a command that writes 10 MiB every 2 s": SAVES,
    "a command that prints 1,000 lines/s": PRINTS,
}


class _Api(BaseHTTPRequestHandler):
    """Hands out one job, and agrees to everything."""

    protocol_version = "HTTP/1.1"
    job: dict[str, Any] | None = None
    polls = 0

    def do_GET(self) -> None:
        api = type(self)
        api.polls += 1
        job, api.job = api.job, None
        if job is None:
            time.sleep(1)
        self._answer([] if job is None else [job])

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer({"status": "running", "message": "heard"})

    def _answer(self, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None: ...


def _job(script: str) -> dict[str, Any]:
    entry = {"bucket": BUCKET, "prefix": "ck/", "local_path": "ck", "direction": "upload"}
    return {
        "id": "job-1",
        "command": sys.executable,
        "arguments": ["-u", "-c", script],
        "container_group_id": "bench",
        "lease": "secret",
        "sync": {"during": [entry]} if script == SAVES else {},
    }


def measure(script: str | None, environment: dict[str, str], seconds: float) -> tuple[float, float, float]:
    """CPU in percent of a core, and MB resident: of the worker, and of the guardian beside a command."""
    _Api.job, _Api.polls = None if script is None else _job(script), 0
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "kelpie.cli", "worker", "--queue", "bench"],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            worker = psutil.Process(process.pid)
            if script is None:
                wait_until(lambda: _Api.polls, "the first poll")
            else:
                wait_until(lambda: len(worker.children(recursive=True)) >= 2, "the command")
            time.sleep(min(seconds, 3.0))  # what happens once, at the start, is no running cost
            before, begun = worker.cpu_times(), time.monotonic()
            time.sleep(seconds)
            after, took = worker.cpu_times(), time.monotonic() - begun
            resident = worker.memory_info().rss
            beside = sum(child.memory_info().rss for child in worker.children())
        finally:
            process.terminate()
            process.wait(60)
    cpu = after.user - before.user + after.system - before.system
    return 100 * cpu / took, resident / 1e6, beside / 1e6


def _show_all(environment: dict[str, str], seconds: float) -> float:
    """Prints every case; the MB of an idle worker."""
    home = tempfile.mkdtemp(prefix="kelpie-bench-")
    try:
        with S3Server(Path(home)) as s3:
            s3.client().create_bucket(Bucket=BUCKET)
            storage = {
                "AWS_ENDPOINT_URL": s3.endpoint,
                "AWS_ACCESS_KEY_ID": s3.access_key,
                "AWS_SECRET_ACCESS_KEY": s3.secret_key,
                "AWS_REGION": REGION,
            }
            resident = [_show(name, environment | storage, seconds) for name in CASES]
            if not s3.client().list_objects_v2(Bucket=BUCKET).get("KeyCount"):
                raise RuntimeError("no checkpoint was stored: the figures are of a worker that did nothing")
            return resident[0]
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _show(name: str, environment: dict[str, str], seconds: float) -> float:
    """Prints one case; the MB of its worker."""
    cpu, resident, beside = measure(CASES[name], environment, seconds)
    guardian = f", {beside:.1f} MB its guardian" if beside else ""
    print(f"   {name}: {cpu:.2f} % of a core, {resident:.1f} MB resident{guardian}", flush=True)
    return resident


def main() -> int:
    """Measure each case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=20, help="how long each case is measured (default: 20)"
    )
    parser.add_argument("--quick", action="store_true", help="only whether it runs")
    options = parser.parse_args()
    print(f"== What a worker takes for itself; load {load()}")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Api)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = os.environ | {
        "KELPIE_API_URL": f"http://127.0.0.1:{server.server_port}",
        "KELPIE_API_KEY": "none",
        "KELPIE_NOTICES": "none",
        "KELPIE_DELETION_COST": "false",
    }
    try:
        if options.quick:
            _show("a command that prints 1,000 lines/s", environment, 0.5)
            idle_mb = 0.0
        else:
            idle_mb = _show_all(environment, options.seconds)
    finally:
        server.shutdown()
    print(f"   load afterwards {load()}; goal: an idle worker holds less than {GOAL_MB} MB")
    return 0 if idle_mb < GOAL_MB else 1


if __name__ == "__main__":
    sys.exit(main())
