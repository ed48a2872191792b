"""Prints the memory of an idle worker that leases over HTTP. Goal: under 60 MB resident.

Run: ``python -m tests.bench.worker_memory``. A tiny HTTP server stands in for the API.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

GOAL_MB = 60
POLLS = 3


class _NoWork(BaseHTTPRequestHandler):
    polls = 0

    def do_GET(self) -> None:
        type(self).polls += 1
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *args: object) -> None: ...


def _resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no process {pid}")


def main() -> int:
    """Start a worker, let it poll a few times, print what it holds."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _NoWork)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = os.environ | {"KELPIE_API_URL": f"http://127.0.0.1:{server.server_port}", "KELPIE_API_KEY": "none"}
    with tempfile.TemporaryDirectory() as folder:
        worker = subprocess.Popen(
            [sys.executable, "-c", "from kelpie.cli.worker import command; command()", "--queue", "bench"],
            cwd=folder,
            env=env,
        )
        try:
            deadline = time.monotonic() + 60
            while _NoWork.polls < POLLS and time.monotonic() < deadline:
                time.sleep(0.1)
            resident = _resident_mb(worker.pid)
        finally:
            worker.terminate()
            worker.wait(30)
    print(f"idle worker, after {_NoWork.polls} polls: {resident:.1f} MB resident (goal: under {GOAL_MB} MB)")
    return 0 if resident < GOAL_MB else 1


if __name__ == "__main__":
    sys.exit(main())
