"""The API as processes: gunicorn with gevent workers, thousands of long polls each."""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import logging
import math
import os
import resource
import socket
import ssl
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import gevent
import structlog
from flask import Flask
from gevent import monkey
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.workers.ggevent import GeventWorker

from kelpie.config import Settings
from kelpie.http.app import create_app
from kelpie.http.context import services

CONNECTIONS_PER_WORKER = 10_000
KEEPALIVE_S = 75
"""Above the interval of idle nodes and most load balancers, so that connections last."""

ROUTINE_PATHS = frozenset({"/work", "/healthz", "/readyz"})
"""Successful calls of these come every few seconds from everybody: logged at debug only."""

log = structlog.get_logger(__name__)


def serve(settings: Settings, *, bind: str, workers: int) -> None:
    """Serve the API on ``bind`` (HOST:PORT) with ``workers`` processes until SIGTERM or SIGINT.

    gevent's monkey patches must be in place (see kelpie.cli.api), and no connection to Redis open: workers
    are forked.
    """
    _raise_file_limit()
    Server(settings, bind=bind, workers=workers).run()


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn publishes no types
    """gunicorn, told everything by us and nothing by files or its own environment variables."""

    def __init__(self, settings: Settings, *, bind: str, workers: int) -> None:
        self.settings = settings
        self.bind = bind
        self.workers = workers
        super().__init__()

    def load_config(self) -> None:
        """Set what differs from gunicorn's defaults."""
        options = {
            "bind": self.bind,
            "workers": self.workers,
            "worker_class": PollingWorker,
            "worker_connections": CONNECTIONS_PER_WORKER,
            "backlog": 4096,
            "keepalive": KEEPALIVE_S,
            "graceful_timeout": self.settings.shutdown_grace_s + math.ceil(self.settings.drain_delay_s),
            "control_socket_disable": True,
            "logger_class": StructuredLogger,
            "proc_name": "kelpie api",
            "when_ready": _announce,
        }
        if self.settings.tls_cert_file is not None:
            options["certfile"] = str(self.settings.tls_cert_file)
            options["keyfile"] = str(self.settings.tls_key_file)
            options["ssl_context"] = _tls
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """The application of one worker, made after the fork."""
        app = create_app(self.settings)
        gc.freeze()  # what the start has made stays: to look at all of it again stops every request for 0.1 s
        return app


class PollingWorker(GeventWorker):  # type: ignore[misc]  # gunicorn publishes no types
    """A worker whose open long polls and idle connections do not hold up its end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle: set[socket.socket] = set()

    def handle(self, listener: socket.socket, client: socket.socket, addr: Any) -> None:
        """Serve one connection."""
        if isinstance(client, ssl.SSLSocket) and not self._shook_hands(client):
            return
        self._idle.add(client)
        try:
            super().handle(listener, client, addr)
        finally:
            self._idle.discard(client)

    def _shook_hands(self, client: ssl.SSLSocket) -> bool:
        """Whether the client speaks TLS, and soon: whoever only connects must not hold a place for ever."""
        try:
            with gevent.Timeout(services(self.wsgi).settings.request_timeout_s):
                client.do_handshake()
        except (gevent.Timeout, OSError) as error:
            log.debug("no TLS on a new connection", error=str(error))
            return False
        return True

    def handle_request(self, listener_name: Any, req: Any, sock: socket.socket, addr: Any) -> None:
        """Serve one request of a connection."""
        self._idle.discard(sock)
        try:
            super().handle_request(listener_name, req, sock, addr)
        finally:
            self._idle.add(sock)
            if not self.alive:
                _stop_reading(sock)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: answer what is open and go. In a greenlet, because a signal handler must not block."""
        if getattr(self, "wsgi", None) is None:  # it has not begun to serve
            super().handle_exit(sig, frame)
        else:
            gevent.spawn(self._leave, sig, frame)

    def _leave(self, sig: int, frame: Any) -> None:
        parts = services(self.wsgi)
        parts.announce_end()
        gevent.sleep(parts.settings.drain_delay_s)
        super().handle_exit(sig, frame)
        parts.close_polls()
        for client in self._idle:
            _stop_reading(client)

    def run(self) -> None:
        """Serve until the end; what was counted until then is told."""
        pulse = services(self.wsgi).pulse
        pulse.start()
        try:
            super().run()
        finally:
            pulse.close()

    def timeout_ctx(self) -> gevent.Timeout:
        """How long the next request of this connection may take to come.

        A connection that was used may idle. A new one has no reason to, and one that sends its first request
        byte by byte would hold a place for ever.
        """
        here = gevent.getcurrent()
        first = not getattr(here, "kelpie_asked", False)
        here.kelpie_asked = True
        settings = services(self.wsgi).settings
        return gevent.Timeout(settings.request_timeout_s if first else self.cfg.keepalive, False)

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """What is no HTTP never reaches the application: refuse it as JSON, as everything else."""
        del req, addr
        if isinstance(exc, LimitRequestLine):
            status, title, message = "414 URI Too Long", "URI Too Long", "The first line is too long."
        elif isinstance(exc, LimitRequestHeaders):
            status, title = "431 Request Header Fields Too Large", "Request Header Fields Too Large"
            message = "The request has too many headers, or one that is too long."
        elif isinstance(exc, ParseException):
            status, title, message = "400 Bad Request", "Bad Request", "This is not an HTTP request."
        else:
            log.error("connection failed", exc_info=exc)
            status, title = "500 Internal Server Error", "Internal Server Error"
            message = "Something is wrong in this server; see its log."
        body = json.dumps({"error": title, "message": message}).encode()
        head = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        with contextlib.suppress(OSError):  # the other side may be gone
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


class StructuredLogger(Logger):  # type: ignore[misc]  # gunicorn publishes no types
    """gunicorn's own messages through :mod:`logging`, and one event per request without query or headers."""

    def setup(self, cfg: Any) -> None:
        """Leave handlers and format to :mod:`kelpie.logs`."""
        self.cfg = cfg
        self.error_log.setLevel(logging.WARNING)
        self.error_log.propagate = True

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: timedelta) -> None:
        """Log one request."""
        del req
        status = int(str(resp.status).split(maxsplit=1)[0])
        path = environ["PATH_INFO"]
        write = log.debug if path in ROUTINE_PATHS and status < 400 else log.info
        write(
            "request",
            method=environ["REQUEST_METHOD"],
            path=path[:200],
            status=status,
            duration_ms=round(request_time / timedelta(milliseconds=1), 1),
        )


def _tls(_config: Any, make_default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """TLS 1.2 or later, and no handshake before :meth:`PollingWorker.handle`, which bounds it."""
    context = make_default()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    wrap_later = functools.partial(context.wrap_socket, do_handshake_on_connect=False)
    context.wrap_socket = wrap_later  # type: ignore[method-assign]  # gevent passes no such argument
    return context


def _announce(arbiter: Arbiter) -> None:
    where = [listener.getsockname() for listener in arbiter.LISTENERS]
    log.info("api is listening", bind=[f"{name[0]}:{name[1]}" for name in where])


def _stop_reading(client: socket.socket) -> None:
    """The reader of ``client`` sees the end of the stream, as if the other side had closed it."""
    # The plain socket's shutdown: gevent's would raise in the greenlet that reads.
    plain: type[socket.socket] = monkey.get_original("socket", "socket")
    with contextlib.suppress(OSError), plain(fileno=os.dup(client.fileno())) as same:  # or already closed
        same.shutdown(socket.SHUT_RD)


def _raise_file_limit() -> None:
    """Each connection is an open file; the usual soft limit of 1024 would be the first to be reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * CONNECTIONS_PER_WORKER
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
