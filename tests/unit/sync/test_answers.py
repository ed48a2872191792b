"""What the lean client makes of answers, byte by byte."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from botocore.exceptions import HTTPClientError

from kelpie_worker.sync.errors import (
    DamagedTransfer,
    StorageError,
    SyncError,
)
from kelpie_worker.sync.gate import Gate
from kelpie_worker.sync.store import Store
from kelpie_worker.sync.transport import Body
from tests.bench.sync.stores import certificate_of
from tests.unit.sync.clients import factory, lean, read
from tests.waiting import wait_until


@contextlib.contextmanager
def scripted(
    monkeypatch: pytest.MonkeyPatch, script: Callable[[Any], None], *, home: Path | None = None
) -> Iterator[None]:
    """``script`` is given each connection; ``home`` is where a certificate may be kept, for TLS."""
    listener = socket.create_server(("127.0.0.1", 0))
    context = None
    scheme = "http"
    if home is not None:
        certificate, key = certificate_of(home)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        scheme = "https"
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                if context is None:
                    script(connection)
                else:
                    with context.wrap_socket(connection, server_side=True) as secure:
                        script(secure)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    environment = {
        "AWS_ENDPOINT_URL_S3": f"{scheme}://localhost:{listener.getsockname()[1]}",
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_REGION": "r",
        "AWS_CONFIG_FILE": "/nowhere",
    }
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    try:
        yield
    finally:
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def _request(connection: Any) -> bytes:
    """One request without a body."""
    head = b""
    while b"\r\n\r\n" not in head:
        more = connection.recv(65536)
        if not more:
            raise ConnectionError("the client left")
        head += more
    return head


def _always(*answers: bytes) -> Callable[[Any], None]:
    def script(connection: Any) -> None:
        for answer in answers:
            _request(connection)
            connection.sendall(answer)

    return script


LIST = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
ENTITIES = b"<!DOCTYPE a [<!ENTITY b 'c'>]><ListBucketResult>&b;</ListBucketResult>"
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: %d\r\n\r\n" % len(LIST) + LIST,
        OK + b"content-length:%d\r\nConnection: close\r\n\r\n" % len(LIST) + LIST,
        OK + b"Transfer-Encoding: chunked\r\n\r\n10;x=y\r\n" + LIST[:16] + b"\r\n%x\r\n" % (len(LIST) - 16)
        + LIST[16:] + b"\r\n0\r\nTrailer: 1\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: %d\r\n\r\n" % len(LIST) + LIST,
        OK + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n%x\r\n" % len(LIST) + LIST
        + b"\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n" + LIST,
    ],
)  # fmt: skip
def test_every_way_to_frame_an_answer_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: bytes, tls: bool
) -> None:
    with scripted(monkeypatch, _always(answer), home=tmp_path if tls else None):
        client = lean()
        for _ in range(2):  # the second time on a connection that the server has closed meanwhile
            assert client.list_objects_v2(Bucket="bucket")["Contents"] == []
            idle = client._connections._idle["localhost"]
            wait_until(lambda: not any(each.is_fresh() for each in idle), "the server's end has arrived")  # noqa: B023


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", DamagedTransfer),
        (OK + b"X: " + b"x" * 70_000, DamagedTransfer),
        (OK + b"Content-Length: 9999\r\n\r\n" + b"x" * 100, ConnectionError),
        (OK + b"Content-Length: 5\r\n\r\n<a/>x", DamagedTransfer),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n", DamagedTransfer),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n45\r\n" + LIST + b"\r\n-5\r\n", DamagedTransfer),
        (OK + b"Content-Length: \xb2\r\n\r\n<a/>", DamagedTransfer),
        (OK + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(LIST) + LIST, DamagedTransfer),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, DamagedTransfer),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n7fffffff\r\n" + b"x" * 100, DamagedTransfer),
        (OK + b"Content-Length: %d\r\n\r\n" % len(ENTITIES) + ENTITIES, DamagedTransfer),
        (b"", ConnectionError),
    ],
)  # fmt: skip
def test_a_damaged_answer_is_an_error_that_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, what: type[Exception]
) -> None:
    with scripted(monkeypatch, _always(answer)), pytest.raises(what):
        lean().list_objects_v2(Bucket="bucket")


@pytest.mark.parametrize("tls", [False, True])
def test_what_stands_behind_an_answer_is_no_answer_to_the_next_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tls: bool
) -> None:
    def answer(etag: bytes, rest: bytes = b"") -> bytes:
        return OK + b"ETag: " + etag + b"\r\nContent-Length: %d\r\n\r\n" % len(rest) + rest

    def script(connection: Any) -> None:
        read_whole = b"GET" in _request(connection)
        connection.sendall(answer(b"true", b"body" if read_whole else b"") + answer(b"smuggled"))
        with contextlib.suppress(ConnectionError):
            _request(connection)

    with scripted(monkeypatch, script, home=tmp_path if tls else None):
        client = lean()
        for _ in range(2):
            assert client.head_object(Bucket="bucket", Key="x")["ETag"] == "true"
            got = client.get_object(Bucket="bucket", Key="x")
            assert (got["ETag"], read(got["Body"])) == ("true", b"body")
        client.close()


def test_an_answer_without_a_body_ends_with_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [
        b"HTTP/1.1 %s\r\nTransfer-Encoding: chunked\r\n\r\n" % each for each in (b"404 No", b"204 Gone")
    ]

    def script(connection: Any) -> None:
        _always(*answers)(connection)
        with contextlib.suppress(ConnectionError):
            _request(connection)  # it stays open: whoever waits for a chunk waits for ever

    with scripted(monkeypatch, script):
        client = lean()
        with pytest.raises(StorageError):
            client.head_object(Bucket="bucket", Key="x")
        client.delete_object(Bucket="bucket", Key="x")
        client.close()


def test_credentials_never_begin_a_header_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token\nX-Injected: 1")
    asked: list[bytes] = []

    def script(connection: Any) -> None:
        asked.append(_request(connection))

    with scripted(monkeypatch, script), pytest.raises(HTTPClientError, match="Invalid header value"):
        factory()().head_object(Bucket="bucket", Key="x")
    assert asked == []


def test_a_refusal_within_a_body_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = b"<Error><Code>EntityTooLarge</Code><Message>no</Message></Error>"

    def script(connection: Any) -> None:
        _request(connection)
        connection.sendall(b"HTTP/1.1 400 Bad\r\nContent-Length: %d\r\n\r\n" % len(refusal) + refusal)
        connection.shutdown(socket.SHUT_RD)
        connection.close()

    body = Body(bytes(32 << 20), lambda: None)
    with (
        scripted(monkeypatch, script),
        pytest.raises((StorageError, ConnectionError)) as refused,
    ):
        lean().put_object(Bucket="bucket", Key="x", Body=body)
    # whoever hangs up with bytes unread may lose his own answer on the way; if it arrives, it counts
    assert isinstance(refused.value, ConnectionError) or "EntityTooLarge" in str(refused.value)


@pytest.mark.parametrize("tls", [False, True])
def test_a_connection_that_stands_still_within_an_object_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tls: bool
) -> None:
    go_on = threading.Event()

    def script(connection: Any) -> None:
        _request(connection)
        connection.sendall(OK + b"ETag: e\r\nContent-Length: 1000\r\n\r\n" + b"x" * 300)
        go_on.wait(20)

    with scripted(monkeypatch, script, home=tmp_path if tls else None):
        client = factory(stall_timeout_s=0.3)()
        body = cast("Any", client.get_object(Bucket="bucket", Key="x")["Body"])
        began = time.monotonic()
        with pytest.raises(ConnectionError, match="no byte"):
            read(body)
        assert time.monotonic() - began < 15
        go_on.set()


def test_a_certificate_that_nobody_signed_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with scripted(monkeypatch, _always(OK + b"Content-Length: 0\r\n\r\n"), home=tmp_path):
        monkeypatch.delenv("AWS_CA_BUNDLE")
        engine_store = Store(factory(), Gate(lambda: True), max_tries=1)
        with pytest.raises(SyncError, match="certificate"):
            engine_store.put("bucket", "x", b"secret", {})
