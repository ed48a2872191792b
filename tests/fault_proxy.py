"""A small HTTP proxy before the real S3 server: forwards every request, unless the test has another idea."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Request:
    """One request as the proxy received it."""

    method: str
    path: str  # with the query
    headers: Message  # whatever the case of their names
    size: int


@dataclass(frozen=True)
class Answer:
    """What is said instead of, or (``before`` is set) before, asking the server."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Slow:
    """A link of so many bytes a second, in both directions."""

    bytes_per_s: int


RESET = "reset"  # the connection breaks before an answer
RESET_AFTER = "reset after"  # the server acts, its answer is lost
RESET_MID = "reset mid"  # the connection breaks within the request's body, or within the answer's
TRUNCATE = "truncate"  # half of the server's body arrives
STALL = "stall"  # silence: the server does not hear of it, nobody answers
STALL_MID = "stall mid"  # half of the answer arrives, then silence
FLIP_UP = "flip up"  # one bit of the request's body changes on its way
FLIP_DOWN = "flip down"  # one bit of the answer's body changes on its way

Rule = Callable[[Request], "Answer | Slow | str | None"]

SILENCE_S = 60.0  # how long a stalled connection waits for its client to give up
BLOCK = 4096


class FaultProxy:
    """``rule`` is asked about every request that has arrived whole: None forwards it. ``early`` is asked when
    its head has arrived; None leaves it to ``rule``. ``requests`` are all that came, whole or not."""

    def __init__(
        self, endpoint: str, rule: Rule = lambda request: None, early: Rule = lambda request: None
    ) -> None:
        self.rule = rule
        self.early = early
        self.requests: list[Request] = []
        self._backend = urlsplit(endpoint)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except OSError:
                    self.close_connection = True

            def _serve(self) -> None:
                proxy._serve(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815  (names of http.server)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

        self._server = Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        request = Request(handler.command, handler.path, handler.headers, length)
        self.requests.append(request)
        action = self.early(request)
        if action == RESET_MID and length:
            handler.rfile.read(length // 2)
            return self._reset(handler)
        if action == STALL:
            return self._be_silent(handler)
        body = (
            _read_slowly(handler.rfile, length, action)
            if isinstance(action, Slow)
            else handler.rfile.read(length)
        )
        if len(body) < length:  # the client gave up
            handler.close_connection = True
            return None
        action = action or self.rule(request)
        if isinstance(action, Answer):
            return self._reply(handler, action.status, action.headers, action.body)
        if action == RESET:
            return self._reset(handler)
        if action == STALL:
            return self._be_silent(handler)
        try:
            status, headers, data = self._forward(request, _flipped(body) if action == FLIP_UP else body)
        except (OSError, http.client.HTTPException):  # the server is away
            return self._reset(handler)
        if action == RESET_AFTER or (action == RESET_MID and not data):
            return self._reset(handler)
        if action == FLIP_DOWN:
            data = _flipped(data)
        return self._reply(handler, status, headers, data, action)

    def _forward(self, request: Request, body: bytes) -> tuple[int, dict[str, str], bytes]:
        backend = http.client.HTTPConnection(self._backend.hostname or "", self._backend.port, timeout=60)
        try:
            backend.request(request.method, request.path, body, dict(request.headers.items()))
            answer = backend.getresponse()
            data = answer.read()
            headers = {
                name: value
                for name, value in answer.getheaders()
                if name.lower() not in {"content-length", "transfer-encoding", "connection"}
            }
            if request.method == "HEAD" and (length := answer.getheader("Content-Length")):
                headers["Content-Length"] = length
            return answer.status, headers, data
        finally:
            backend.close()

    @classmethod
    def _reply(
        cls,
        handler: BaseHTTPRequestHandler,
        status: int,
        headers: dict[str, str],
        body: bytes,
        action: Answer | Slow | str | None = None,
    ) -> None:
        handler.send_response_only(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if "Content-Length" not in headers and status != 204:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command == "HEAD":
            return
        if isinstance(action, Slow):
            for start in range(0, len(body), BLOCK):
                handler.wfile.write(body[start : start + BLOCK])
                time.sleep(len(body[start : start + BLOCK]) / action.bytes_per_s)
            return
        cut = action in {TRUNCATE, STALL_MID, RESET_MID}
        handler.wfile.write(body[: len(body) // 2] if cut else body)
        if action == TRUNCATE:
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
        elif action == STALL_MID:
            cls._be_silent(handler)
        elif action == RESET_MID:
            cls._reset(handler)

    @staticmethod
    def _be_silent(handler: BaseHTTPRequestHandler) -> None:
        """Until the client gives up."""
        handler.connection.settimeout(SILENCE_S)
        with contextlib.suppress(OSError):
            while handler.connection.recv(1 << 16):
                pass
        handler.close_connection = True

    @staticmethod
    def _reset(handler: BaseHTTPRequestHandler) -> None:
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.close_connection = True


def _read_slowly(stream: Any, length: int, link: Slow) -> bytes:
    body = b""
    while len(body) < length and (block := stream.read(min(BLOCK, length - len(body)))):
        body += block
        time.sleep(len(block) / link.bytes_per_s)
    return body


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :] if data else data


def times(number: int, action: Answer | str, matches: Callable[[Request], bool]) -> Rule:
    """A rule: the first ``number`` requests that match meet the action."""
    left = [number]
    lock = threading.Lock()

    def rule(request: Request) -> Answer | str | None:
        with lock:
            if left[0] > 0 and matches(request):
                left[0] -= 1
                return action
        return None

    return rule


def error(status: int, code: str) -> Answer:
    """An S3 error."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>a test says so</Message></Error>"
    return Answer(status, body.encode(), {"Content-Type": "application/xml"})


def is_fetch(request: Request) -> bool:
    """Whether the request reads an object."""
    return request.method == "GET" and "list-type=" not in request.path


def is_part(request: Request) -> bool:
    """Whether the request sends a part of a multipart upload."""
    return request.method == "PUT" and "partNumber=" in request.path


def is_put(request: Request) -> bool:
    """Whether the request stores an object in one piece."""
    return request.method == "PUT" and "?" not in request.path.replace("?x-id=PutObject", "")


def is_create(request: Request) -> bool:
    """Whether the request begins a multipart upload."""
    return request.method == "POST" and "?uploads" in request.path


def is_complete(request: Request) -> bool:
    """Whether the request completes a multipart upload."""
    return request.method == "POST" and "uploadId=" in request.path
