"""A small HTTP proxy before the real S3 server: forwards every request, unless the test has another idea."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Request:
    """One request as the proxy received it."""

    method: str
    path: str  # with the query
    headers: dict[str, str]
    size: int


@dataclass(frozen=True)
class Answer:
    """What is said instead of, or (``before`` is set) before, asking the server."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


RESET = "reset"  # the connection breaks before an answer
RESET_AFTER = "reset after"  # the server acts, its answer is lost
TRUNCATE = "truncate"  # half of the server's body arrives

Rule = Callable[[Request], "Answer | str | None"]


class FaultProxy:
    """``rule`` is asked about every request: None forwards it. ``requests`` are all that came."""

    def __init__(self, endpoint: str, rule: Rule = lambda request: None) -> None:
        self.rule = rule
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
        body = handler.rfile.read(length)
        if len(body) < length:  # the client gave up
            handler.close_connection = True
            return
        request = Request(handler.command, handler.path, dict(handler.headers.items()), length)
        self.requests.append(request)
        action = self.rule(request)
        if isinstance(action, Answer):
            self._reply(handler, action.status, action.headers, action.body)
        elif action == RESET:
            self._reset(handler)
        else:
            backend = http.client.HTTPConnection(self._backend.hostname or "", self._backend.port, timeout=60)
            try:
                backend.request(handler.command, handler.path, body, dict(handler.headers.items()))
                answer = backend.getresponse()
                data = answer.read()
                headers = {
                    name: value
                    for name, value in answer.getheaders()
                    if name.lower() not in {"content-length", "transfer-encoding", "connection"}
                }
                length_of_head = answer.getheader("Content-Length")
            finally:
                backend.close()
            if action == RESET_AFTER:
                self._reset(handler)
            else:
                cut = len(data) // 2 if action == TRUNCATE else None
                if handler.command == "HEAD" and length_of_head:
                    headers["Content-Length"] = length_of_head
                self._reply(handler, answer.status, headers, data, cut)

    @staticmethod
    def _reply(
        handler: BaseHTTPRequestHandler,
        status: int,
        headers: dict[str, str],
        body: bytes,
        cut: int | None = None,
    ) -> None:
        handler.send_response_only(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if "Content-Length" not in headers and status != 204:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True

    @staticmethod
    def _reset(handler: BaseHTTPRequestHandler) -> None:
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.close_connection = True


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


def is_complete(request: Request) -> bool:
    """Whether the request completes a multipart upload."""
    return request.method == "POST" and "uploadId=" in request.path
