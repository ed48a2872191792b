"""The leanest HTTP client to keep thousands of connections busy, so that the server is what is measured."""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections.abc import Callable
from typing import Any

from kelpie.embedded.processes import LOOPBACK

STALLED_S = 60.0
"""Without any answer for this long, the run is given up."""


class Wire:
    """Connections to one API, each with at most one request on its way."""

    def __init__(self, port: int, key: str, count: int) -> None:
        self._head = f"HTTP/1.1\r\nHost: {LOOPBACK}\r\nX-Kelpie-Key: {key}\r\n"
        self.connections = [Connection(port, number) for number in range(count)]

    def request(self, method: str, path: str, body: Any = None) -> bytes:
        """The bytes of a request. ``body`` is JSON already (bytes), or becomes it."""
        if body is None:
            return f"{method} {path} {self._head}\r\n".encode()
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return f"{method} {path} {self._head}Content-Length: {len(data)}\r\n\r\n".encode() + data

    def drive(
        self,
        following: Callable[[Connection], bytes | None],
        answered: Callable[[Connection, int, bytes], None] = lambda connection, status, body: None,
    ) -> None:
        """Send what ``following`` gives for a connection, hand the reply to ``answered``; None ends its turn.

        Raises RuntimeError when the server closes a connection, or says nothing for a minute.
        """
        with selectors.DefaultSelector() as selector:
            busy = 0
            for connection in self.connections:
                connection.selector = selector
                busy += connection.send(following(connection))
            while busy:
                ready = selector.select(STALLED_S)
                if not ready:
                    raise RuntimeError(f"no answer to {busy} requests for {STALLED_S:g} s")
                for chosen, _ in ready:
                    connection = chosen.data
                    reply = connection.receive()
                    if reply is not None:
                        answered(connection, *reply)
                        busy += connection.send(following(connection)) - 1

    def close(self) -> None:
        """Close every connection."""
        for connection in self.connections:
            if connection.socket is not None:
                connection.socket.close()


class Connection:
    """One connection, made at its first request. ``latency_s`` is how long the last one took.

    Idle connections made beforehand would all be taken by one process of the API: the one that wakes first.
    """

    def __init__(self, port: int, number: int) -> None:
        self._port = port
        self.socket: socket.socket | None = None
        self.number = number
        self.selector: selectors.BaseSelector | None = None
        self.latency_s = 0.0
        self._sent = 0.0
        self._received = b""
        self._length = -1  # of the reply that is arriving, head included; -1: its head is not complete

    def send(self, request: bytes | None) -> int:
        """Send a request; None: be idle from now on. Returns how many requests are on their way."""
        assert self.selector is not None
        if request is None:
            if self.socket is not None and self.socket in self.selector.get_map():
                self.selector.unregister(self.socket)
            return 0
        if self.socket is None:
            self.socket = socket.create_connection((LOOPBACK, self._port), timeout=30)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.socket not in self.selector.get_map():
            self.selector.register(self.socket, selectors.EVENT_READ, self)
        self._sent = time.perf_counter()
        self.socket.sendall(request)
        return 1

    def receive(self) -> tuple[int, bytes] | None:
        """Status and body of the reply, once it is complete."""
        assert self.socket is not None
        chunk = self.socket.recv(1 << 20)
        if not chunk:
            raise RuntimeError("the server closed a connection in the middle of a request")
        self._received += chunk
        if self._length < 0:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return None
            self._length = end + 4 + _content_length(self._received[:end])
        if len(self._received) < self._length:
            return None
        self.latency_s = time.perf_counter() - self._sent
        status = int(self._received[9:12])
        body = self._received[self._received.index(b"\r\n\r\n") + 4 :]
        self._received, self._length = b"", -1
        return status, body


def _content_length(head: bytes) -> int:
    at = head.lower().index(b"\r\ncontent-length:") + 17
    return int(head[at:].partition(b"\r\n")[0])
