"""HTTP/1.1 over kept-alive sockets, as far as an S3 client needs it.

A socket without TLS blocks, with the kernel's own time limits: a time limit of Python's would cost a poll per
call. Every failure of the network is a ConnectionError, also a connection that stands still.
"""

from __future__ import annotations

import mmap
import os
import re
import select
import socket
import ssl
import struct
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from kelpie_worker.sync.errors import DamagedTransfer, SourceChanged
from kelpie_worker.sync.transport.body import BLOCK, Body, Slice

_HEAD_LIMIT = 64 * 1024  # bytes of an answer's status line and headers
_SMALL = 64 * 1024  # bytes of a body that goes in one piece with the head of its request
_SENDFILE = 1 << 20  # bytes that the kernel sends between two looks at the gate
_LINE_LIMIT = 1024  # bytes of a chunk's size line
_INTERIM_LIMIT = 100  # answers such as "100 Continue" before the one that counts
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to connect, and how."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    stall_timeout_s: float


class Answer:
    """The head of an answer. Its body, if any, is read by :meth:`Connection.read_into` or ``read_all``."""

    __slots__ = ("chunked", "headers", "keep_alive", "length", "status")

    def __init__(self, status: int, headers: Mapping[str, str], *, keep_alive: bool, bodiless: bool) -> None:
        self.status = status
        self.headers = headers
        length = headers.get("content-length", "")
        self.chunked = not bodiless and "chunked" in headers.get("transfer-encoding", "").lower()
        self.length = 0 if bodiless else int(length) if length.isascii() and length.isdigit() else None
        """Bytes of the body; None when only its end tells."""
        # who says the length in two ways may mean either: nothing more is read on such a connection
        self.keep_alive = keep_alive and not (self.chunked and length)


class Connection:
    """One connection; one request at a time."""

    def __init__(self, address: Address) -> None:
        self._stall_s = address.stall_timeout_s
        made = socket.create_connection((address.host, address.port), timeout=address.stall_timeout_s)
        try:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if address.tls is not None:
                made = address.tls.wrap_socket(made, server_hostname=address.host)
            else:
                made.settimeout(None)
                limit = struct.pack("@ll", int(self._stall_s), int(self._stall_s % 1 * 1e6))
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
                made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        except BaseException:
            made.close()
            raise
        self._socket = made
        self._tls = address.tls is not None
        self._arrivals = select.poll()
        self._arrivals.register(made, select.POLLIN)
        self._bytes = mmap.mmap(-1, _HEAD_LIMIT)  # takes memory only where something has arrived
        self._buffer = memoryview(self._bytes)
        self._start = self._end = 0  # what has arrived and was not read yet

    def close(self) -> None:
        """Break it."""
        self._socket.close()

    def is_fresh(self) -> bool:
        """Whether an idle connection still stands: nothing has arrived on it, not even its end.

        What stands behind the end of an answer would be taken for the answer to the next request.
        """
        if self._start < self._end:
            return False
        if isinstance(self._socket, ssl.SSLSocket):
            if self._socket.pending():
                return False
            if not self._arrivals.poll(0):
                return True
            self._socket.setblocking(False)  # a session ticket, or the end
            try:
                self._socket.recv(1)
            except ssl.SSLWantReadError:
                return True
            except OSError:
                pass
            finally:
                self._socket.settimeout(self._stall_s)
            return False
        try:
            self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    # ---- sending

    def send(self, head: bytes, body: Body | None) -> None:
        """Send a request. What ``body.ask`` raises ends it half-way: the connection is of no more use."""
        if body is None or not len(body):
            self._socket.sendall(head)
        elif len(body) <= _SMALL:
            body.ask()
            data = body.data
            self._socket.sendall(head + (data if isinstance(data, bytes) else b"".join(data.blocks())))
        else:
            self._socket.sendall(head)
            if isinstance(body.data, bytes):
                view = memoryview(body.data)
                for start in range(0, len(view), BLOCK):
                    body.ask()
                    self._socket.sendall(view[start : start + BLOCK])
            elif self._tls:
                for block in body.data.blocks():
                    body.ask()
                    self._socket.sendall(block)
            else:
                self._send_file(body, body.data)

    def _send_file(self, body: Body, piece: Slice) -> None:
        out, source = self._socket.fileno(), piece.descriptor
        offset, left = piece.start, piece.length
        while left:
            body.ask()
            sent = os.sendfile(out, source, offset, min(left, _SENDFILE))
            if not sent:
                raise SourceChanged("the file became shorter while it was uploaded")
            offset += sent
            left -= sent

    # ---- receiving

    def answer(self, method: str) -> Answer:
        """The head of the answer."""
        for _ in range(_INTERIM_LIMIT):
            head = self._head()
            if not head.startswith(b"HTTP/1.") or not head[9:12].isdigit():
                raise DamagedTransfer("the answer is no HTTP")
            status = int(head[9:12])
            if status >= 200:  # before it there may be "100 Continue"
                break
        else:
            raise DamagedTransfer("the answer does not come to its point")
        headers: dict[str, str] = {}
        for line in head.decode("latin-1").split("\r\n")[1:]:
            name, _, value = line.partition(":")
            name, value = name.strip().lower(), value.strip()
            if name == "content-length" and headers.get(name, value) != value:
                raise DamagedTransfer("the answer has two lengths")
            headers[name] = value
        keep_alive = head[:8] != b"HTTP/1.0" and headers.get("connection", "").lower() != "close"
        bodiless = method == "HEAD" or status in {204, 304}
        return Answer(status, headers, keep_alive=keep_alive, bodiless=bodiless)

    def read_into(self, target: memoryview) -> int:
        """The next bytes of a body; fewer than asked for only when the connection ended or stood still."""
        if self._start < self._end:
            size = min(len(target), self._end - self._start)
            target[:size] = self._buffer[self._start : self._start + size]
            self._start += size
            return size
        if not self._tls:
            return self._socket.recv_into(target, 0, socket.MSG_WAITALL)
        size = 0
        while size < len(target):  # one record at a time
            received = self._socket.recv_into(target[size:])
            if not received:
                break
            size += received
        return size

    def read_all(self, answer: Answer, limit: int) -> bytes:
        """The whole body of an answer that is no file; DamagedTransfer beyond ``limit`` bytes."""
        pieces: list[bytes] = []
        total = 0
        while (size := self._next_size(answer, total)) > 0:
            total += size
            if total > limit:
                raise DamagedTransfer(f"an answer has more than {limit} bytes")
            pieces.append(self._exactly(size))
            if answer.chunked:
                self._line()
        return b"".join(pieces)

    def _next_size(self, answer: Answer, read: int) -> int:
        """Bytes of the body's next piece; 0 at its end."""
        if answer.chunked:
            text = self._line().partition(b";")[0].strip()
            if _CHUNK_SIZE.fullmatch(text) is None:  # int() takes signs and underscores too
                raise DamagedTransfer("a chunk of the answer has no size")
            size = int(text, 16)
            while not size and self._line():  # trailers
                pass
            return size
        if answer.length is not None:
            return answer.length - read
        if self._start == self._end:
            self._start, self._end = 0, self._socket.recv_into(self._buffer)
        return self._end - self._start

    def _exactly(self, size: int) -> bytes:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            received = self.read_into(view)
            if not received:
                raise ConnectionError("the connection ended in the middle of an answer")
            view = view[received:]
        return bytes(data)

    def _line(self) -> bytes:
        return self._until(b"\r\n", _LINE_LIMIT)

    def _head(self) -> bytes:
        return self._until(b"\r\n\r\n", _HEAD_LIMIT)

    def _until(self, mark: bytes, limit: int) -> bytes:
        while (found := self._bytes.find(mark, self._start, self._end)) < 0:
            if self._end - self._start >= limit:
                raise DamagedTransfer(f"the answer has a line of more than {limit} bytes")
            if self._start:
                held = bytes(self._buffer[self._start : self._end])
                self._buffer[: len(held)] = held
                self._start, self._end = 0, len(held)
            received = self._socket.recv_into(self._buffer[self._end :])
            if not received:
                raise ConnectionError("the connection ended before an answer")
            self._end += received
        taken = bytes(self._buffer[self._start : found])
        self._start = found + len(mark)
        return taken


class BrokenConnection(ConnectionError):
    """The network failed. ``kwargs`` names the endpoint, as botocore's errors do."""

    def __init__(self, error: OSError, endpoint_url: str) -> None:
        if isinstance(error, (TimeoutError, BlockingIOError)):  # Python's limit, the kernel's limit
            text = "the storage moved no byte for too long"
        else:
            text = f"the connection to the storage failed: {error.strerror or error}"
        super().__init__(text)
        self.kwargs = {"endpoint_url": endpoint_url}


class Connections:
    """The idle connections of a client, by host; the one used last goes first. Safe from any thread."""

    def __init__(self) -> None:
        self._idle: dict[str, deque[Connection]] = {}

    def take(self, address: Address) -> Connection:
        """A connection that stands, made if need be."""
        idle = self._idle.setdefault(address.host, deque())
        while True:
            try:
                connection = idle.pop()
            except IndexError:
                return Connection(address)
            if connection.is_fresh():
                return connection
            connection.close()

    def give(self, address: Address, connection: Connection) -> None:
        """The connection may be used for the next request."""
        self._idle[address.host].append(connection)

    def close(self) -> None:
        """Close those that are idle."""
        for idle in self._idle.values():
            while idle:
                idle.pop().close()
