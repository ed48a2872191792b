"""A node's way to a server: a TCP proxy that can be cut, fall silent, or become slow."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from enum import Enum
from typing import Self
from urllib.parse import urlsplit

_CHUNK = 64 * 1024
_UPLOAD_ID = re.compile(rb"<UploadId>([^<]+)</UploadId>")
_MAX_ID_BYTES = 4096
"""Of an upload's id with its tags."""
_POLL_S = 0.02


class Way(Enum):
    """What happens to what is sent."""

    OPEN = "it arrives"
    CUT = "connections break, and new ones are refused"
    SILENT = "nothing arrives and nothing is refused; it goes on where it stopped"


class Link:
    """Listens on the loopback and forwards to ``target`` (http://host:port)."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (str(parts.hostname), int(parts.port or 0))
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.bytes_per_s: float | None = None
        self.told_uploads: set[str] = set()
        """Ids of multipart uploads in answers that have passed."""
        self._way = Way.OPEN
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def set(self, way: Way) -> None:
        """From now on."""
        self._way = way
        if way is Way.CUT:
            self._break()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept, which close alone does not
        self._listener.close()
        self._break()

    def _break(self) -> None:
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            while self._way is Way.SILENT and not self._closed:
                time.sleep(_POLL_S)
            if self._way is Way.CUT or self._closed:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:  # it is down
                return
            with server:
                with self._lock:
                    self._open |= {client, server}
                back = threading.Thread(target=self._pump, args=(server, client, True), daemon=True)
                back.start()
                self._pump(client, server, False)
                back.join()
                with self._lock:
                    self._open -= {client, server}

    def _pump(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        passed = b""
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                if self.bytes_per_s is not None:
                    time.sleep(len(data) / self.bytes_per_s)
                while self._way is Way.SILENT and not self._closed:
                    time.sleep(_POLL_S)
                sink.sendall(data)
                if is_answer:
                    passed += data
                    self.told_uploads.update(each.decode() for each in _UPLOAD_ID.findall(passed))
                    passed = passed[-_MAX_ID_BYTES:]  # an id may come in two pieces
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
