from __future__ import annotations

import base64
import json
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from kelpie.platform import guard
from kelpie.platform.webhooks import MAX_RETRY_AFTER_S, Answer, DeliveryError, Message, send, signed_headers
from tests.unit.platform.receiver import Receiver, receiver

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
MESSAGE = Message("kelpie-1-5-0", "completed", "11111111-1111-4111-8111-111111111111", "node-1", "group-1")
TIMEOUT_S = 5


def deliver(to: Receiver, path: str = "/hook?x=1") -> Answer:
    target = guard.resolve(to.url + path, allow_private=True)
    body = MESSAGE.body()
    headers = signed_headers(MESSAGE.id, body, [SECRET], datetime.now(UTC))
    return send(target, body.encode(), headers, timeout_s=TIMEOUT_S)


Behaviour = Callable[[socket.socket], None]
"""What a hostile receiver does with a connection."""


@contextmanager
def hostile(behave: Behaviour) -> Iterator[guard.Target]:
    """A socket on the loopback that does with every connection what ``behave`` does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, suppress(OSError):
                    behave(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield guard.Target("http", "evil.example", listener.getsockname()[1], ("127.0.0.1",), "/")
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def dripping(piece: bytes) -> Behaviour:
    """Sends a piece again and again, for as long as the other side bears it."""

    def drip(connection: socket.socket) -> None:
        while True:
            connection.sendall(piece)
            time.sleep(0.01)  # slow is what this is about

    return drip


def read_request(connection: socket.socket) -> bytes:
    """The whole request: who closes a connection with something unread resets it."""
    request = b""
    while not request.endswith(b"{}") and (piece := connection.recv(65536)):
        request += piece
    return request


def answering(*pieces: bytes) -> Behaviour:
    """Reads the request and sends these pieces, then closes."""

    def answer(connection: socket.socket) -> None:
        read_request(connection)
        for piece in pieces:
            connection.sendall(piece)

    return answer


def reset(connection: socket.socket) -> None:
    """Ends the connection with a TCP reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_a_delivery_says_what_the_wire_promises_and_nothing_else() -> None:
    with receiver() as to:
        assert deliver(to).status == 204
    [delivery] = to.deliveries
    assert delivery.path == "/hook?x=1"
    assert json.loads(delivery.body) == {
        "status": "completed",
        "job_id": MESSAGE.job_id,
        "machine_id": "node-1",
        "container_group_id": "group-1",
    }
    assert delivery.headers["content-type"] == "application/json"
    assert delivery.headers["host"] == f"127.0.0.1:{to.port}"
    assert delivery.headers["webhook-id"] == MESSAGE.id


def test_the_receiver_can_verify_a_delivery_with_the_users_secret() -> None:
    with receiver() as to:
        deliver(to)
    [delivery] = to.deliveries
    assert Webhook(SECRET).verify(delivery.body, delivery.headers) == json.loads(delivery.body)
    assert delivery.headers["x-kelpie-key"] == SECRET
    other = "whsec_" + base64.b64encode(b"another secret").decode()
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify(delivery.body, delivery.headers)


def test_while_a_secret_is_replaced_a_delivery_has_two_signatures() -> None:
    new = "whsec_" + base64.b64encode(b"the new secret, 32 bytes of it..").decode()
    body = MESSAGE.body()
    headers = signed_headers(MESSAGE.id, body, [new, SECRET], datetime.now(UTC))
    assert len(headers["webhook-signature"].split()) == 2
    assert headers["X-Kelpie-Key"] == new
    for secret in (new, SECRET):
        Webhook(secret).verify(body, headers)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status: int) -> None:
    with receiver() as elsewhere, receiver() as to:
        to.statuses, to.location = [status], elsewhere.url
        assert deliver(to).status == status
    assert not elsewhere.deliveries


@pytest.mark.parametrize("status", [200, 204, 400, 404, 410, 429, 500, 503])
def test_the_status_of_an_answer_is_what_it_comes_to(status: int) -> None:
    with receiver() as to:
        to.statuses = [status]
        assert deliver(to) == Answer(status)


@pytest.mark.parametrize(
    ("said", "understood"),
    [("7", 7), ("0", 0), ("999999999", MAX_RETRY_AFTER_S), ("-1", 0), ("Tue, 24 Nov 2026 00:00:00 GMT", 0),
     ("9" * 5000, 0), ("\u0661", 0)],
)  # fmt: skip
def test_a_receiver_may_ask_for_a_pause_within_reason(said: str, understood: int) -> None:
    head = f"HTTP/1.1 503 Busy\r\nRetry-After: {said}\r\n\r\n".encode()
    with hostile(answering(head)) as target:
        assert send(target, b"{}", {}, timeout_s=TIMEOUT_S) == Answer(503, understood)


def test_nobody_listening_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(DeliveryError, match="refused the connection"):
        deliver(Receiver(url=f"http://127.0.0.1:{port}"))


def test_a_receiver_that_never_accepts_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        target = guard.resolve(f"http://127.0.0.1:{mute.getsockname()[1]}/", allow_private=True)
        with pytest.raises(DeliveryError, match="did not answer in time"):
            send(target, b"{}", {}, timeout_s=0.2)


@pytest.mark.parametrize(
    "piece",
    [b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"X"],
    ids=["a status line in drips", "a header in drips", "endless interim answers", "one endless line"],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_receiver_that_drips_is_cut_off_in_time(piece: bytes, scheme: str) -> None:
    with hostile(dripping(piece)) as target, pytest.raises(DeliveryError) as failed:
        send(replace(target, scheme=scheme), b"{}", {}, timeout_s=0.3)
    assert "evil.example" in str(failed.value)


def test_a_tls_handshake_that_never_ends_is_cut_off() -> None:
    def hang(connection: socket.socket) -> None:
        while connection.recv(65536):
            pass

    with hostile(hang) as target, pytest.raises(DeliveryError, match="did not answer in time"):
        send(replace(target, scheme="https"), b"{}", {}, timeout_s=0.3)


def test_an_endless_body_is_not_read() -> None:
    sent = []

    def flood(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            sent.append(connection.send(b"10000\r\n" + b"x" * 0x10000 + b"\r\n"))

    with hostile(flood) as target:
        assert send(target, b"{}", {}, timeout_s=TIMEOUT_S) == Answer(200)
    assert sum(sent) < 64 * 2**20  # what fits into the buffers of two sockets


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2**20 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 " + b"2" * 2**20,
        b"HTTP/1.1 two hundred\r\n\r\n",
        b"\x00\xff" * 1000 + b"\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"",
    ],
    ids=["huge header", "many headers", "huge status", "words", "bytes", "another protocol", "nothing"],
)
def test_what_is_no_http_answer_is_a_failed_try(answer: bytes) -> None:
    with hostile(answering(answer)) as target, pytest.raises(DeliveryError):
        send(target, b"{}", {}, timeout_s=TIMEOUT_S)


def test_a_reset_is_a_failed_try() -> None:
    with hostile(reset) as target, pytest.raises(DeliveryError):
        send(target, b"{}", {}, timeout_s=TIMEOUT_S)


def test_no_tls_where_tls_should_be_is_a_failed_try() -> None:
    def plain(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

    with hostile(plain) as target, pytest.raises(DeliveryError, match="does not speak TLS"):
        send(replace(target, scheme="https"), b"{}", {}, timeout_s=TIMEOUT_S)


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")

    def serve(connection: socket.socket) -> None:
        with suppress(ssl.SSLError):
            context.wrap_socket(connection, server_side=True).recv(1)

    with hostile(serve) as target, pytest.raises(DeliveryError, match="certificate is not valid"):
        send(replace(target, scheme="https"), b"{}", {}, timeout_s=TIMEOUT_S)


def test_a_receiver_that_is_vouched_for_is_delivered_to_over_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    self_signed(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    got = []

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            got.append(read_request(secure))
            secure.sendall(b"HTTP/1.1 202 Accepted\r\n\r\n")

    with hostile(serve) as target:
        secure = replace(target, scheme="https")
        assert send(secure, b"{}", {"webhook-id": "x"}, timeout_s=TIMEOUT_S) == Answer(202)
        other = replace(secure, host="other.example")
        with pytest.raises(DeliveryError, match="certificate is not valid"):
            send(other, b"{}", {}, timeout_s=TIMEOUT_S)
    assert f"Host: evil.example:{target.port}".encode() in got[0]


def self_signed(directory: Path) -> None:
    """A certificate of evil.example and its key, in PEM files."""
    key, cert = str(directory / "key.pem"), str(directory / "cert.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=evil.example",
         "-addext", "subjectAltName=DNS:evil.example"],
        check=True,
        capture_output=True,
    )  # fmt: skip


def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    with receiver() as to:
        target = guard.Target("http", "two.example", to.port, ("127.0.0.2", "127.0.0.1"), "/")
        assert send(target, b"{}", {}, timeout_s=TIMEOUT_S) == Answer(204)
    assert to.deliveries[0].headers["host"] == f"two.example:{to.port}"


def test_errors_do_not_show_the_path_of_the_url() -> None:
    with hostile(answering(b"")) as target, pytest.raises(DeliveryError) as caught:
        send(replace(target, path="/secret-token?x=secret"), b"{}", {}, timeout_s=TIMEOUT_S)
    assert "secret" not in str(caught.value)
