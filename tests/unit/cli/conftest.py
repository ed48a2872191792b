"""The command line as a process would run it, and a server that answers what a test tells it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from kelpie.cli import main

JOB_ID = "5b2e0f4e-6a0e-4c53-9d0a-1f2f3a4b5c6d"


def job_wire(**overrides: Any) -> dict[str, Any]:
    """A job as the API describes it."""
    wire = {
        "id": JOB_ID,
        "user_id": "user-1",
        "command": "true",
        "arguments": [],
        "environment": {},
        "container_group_id": "q",
        "max_failures": 3,
        "heartbeat_interval": 30,
        "webhook": None,
        "compression": False,
        "sync": {},
        "priority": 0,
        "labels": {},
        "status": "pending",
        "created": "2026-11-24T00:00:00.000Z",
        "num_failures": 0,
        "num_heartbeats": 0,
        "machine_id": None,
        "attempt": 0,
        "waiting_for": None,
    }
    return wire | overrides


@dataclass
class Request:
    """One request that the server received."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Scripted:
    """A real HTTP server whose answers are set beforehand; the last one is repeated."""

    url: str = ""
    answers: list[tuple[int, Any, dict[str, str]]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def answer(self, status: int, body: Any, **headers: str) -> None:
        """Add an answer: JSON, or bytes as they are, or None to drop the connection without any."""
        self.answers.append((status, body, {name.replace("_", "-"): text for name, text in headers.items()}))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    """A scripted API that the command line and the client talk to by default."""
    scripted = Scripted()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            data = self.rfile.read(length)
            scripted.requests.append(
                Request(self.command, self.path, dict(self.headers), json.loads(data) if data else None)
            )
            status, body, headers = scripted.answers[0]
            if len(scripted.answers) > 1:
                scripted.answers.pop(0)
            if body is None:
                self.close_connection = True
                return
            sent = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, text in ({"Content-Length": str(len(sent))} | headers).items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = do_DELETE = do_PATCH = do_PUT = handle_any  # noqa: N815 -- the names that http.server calls

        def log_message(self, *_: Any) -> None:
            return

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    scripted.url = f"http://127.0.0.1:{http.server_address[1]}"
    monkeypatch.setenv("KELPIE_API_URL", scripted.url)
    monkeypatch.setenv("KELPIE_API_KEY", "klp_secret")
    monkeypatch.setattr("kelpie.client.transport._BACKOFF_S", (0.001, 0.002))
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield scripted
    http.shutdown()
    thread.join()
    http.server_close()


@dataclass(frozen=True)
class Said:
    """What a command line ended with."""

    code: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def kelpie(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command line."""

    def run(*argv: str) -> Said:
        with pytest.raises(SystemExit) as end:
            main(argv)
        said = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return Said(end.value.code, said.out, said.err)

    return run
