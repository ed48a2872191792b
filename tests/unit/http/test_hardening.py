"""The API as a process against slow, large and broken clients, an absent Redis, and its own end."""

from __future__ import annotations

import json
import signal
import socket
import struct
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import urllib3

from kelpie.embedded.processes import LOOPBACK
from kelpie.embedded.valkey import ValkeyServer
from kelpie.http.server import PollingWorker
from tests.api import ApiServer
from tests.factories import job_body
from tests.waiting import wait_until

TOKEN = "metrics-token-of-the-operator"


SETTINGS = {
    "KELPIE_REQUEST_TIMEOUT_S": "2",
    "KELPIE_MAX_BODY_BYTES": "4096",
    "KELPIE_METRICS_TOKEN": TOKEN,
    "KELPIE_CORS_ORIGINS": "https://a.example",
    "KELPIE_RATE_WORK_PER_S": "1",
}


@pytest.fixture
def own_server(broker: ValkeyServer, tmp_path: Path) -> Iterator[ApiServer]:
    """An API that a test may stop."""
    with ApiServer(broker.url, tmp_path, **SETTINGS) as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API that tests only talk to."""
    home = tmp_path_factory.mktemp("hardening")
    with ValkeyServer(home / "valkey") as broker, ApiServer(broker.url, home, **SETTINGS) as server:
        yield server


def connect(server: ApiServer) -> socket.socket:
    return socket.create_connection((LOOPBACK, server.port), timeout=30)


def one_answer(client: socket.socket) -> bytes:
    """The head and the body of one answer."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += _some(client)
    head, _, body = got.partition(b"\r\n\r\n")
    lines = head.decode().lower().splitlines()
    length = next(int(line.split()[1]) for line in lines if line.startswith("content-length:"))
    while len(body) < length:
        body += _some(client)
    return head + b"\r\n\r\n" + body


def _some(client: socket.socket) -> bytes:
    chunk = client.recv(65536)
    assert chunk, "the connection was closed before its answer ended"
    return chunk


def answer_to(server: ApiServer, *pieces: bytes) -> bytes:
    """What comes back until the server closes the connection."""
    with connect(server) as client:
        with suppress(ConnectionError):  # it may have refused before it read everything
            for piece in pieces:
                client.sendall(piece)
        got = b""
        with suppress(ConnectionError):
            while chunk := client.recv(65536):
                got += chunk
        return got


def head(server: ApiServer, *more: str, path: str = "/jobs") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"X-Kelpie-Key: {server.admin_key}", *more, "", ""]
    return "\r\n".join(lines).encode()


def test_a_client_that_never_ends_its_head_is_given_up(server: ApiServer) -> None:
    with connect(server) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
        ended = False
        for _ in range(100):  # a byte now and then, so that no single read takes long
            try:
                slow.sendall(b"a")
                slow.settimeout(0.2)
                ended = slow.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                ended = True
            if ended:
                break
        assert ended


def test_a_used_connection_may_idle_longer_than_a_new_one(server: ApiServer) -> None:
    with connect(server) as client, connect(server) as fresh:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in one_answer(client)
        assert fresh.recv(1) == b""  # which was given up before it asked anything
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in one_answer(client)


def test_a_body_that_never_ends_is_408(server: ApiServer) -> None:
    with connect(server) as slow:
        slow.sendall(head(server, "Content-Length: 200") + b"{")
        answer = one_answer(slow)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"error"' in answer


def test_a_chunked_body_beyond_the_limit_is_413(server: ApiServer) -> None:
    chunk = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
    for count in (1, 2, 20):
        with connect(server) as client:
            client.sendall(head(server, "Transfer-Encoding: chunked"))
            with suppress(ConnectionError):
                client.sendall(chunk * count + b"0\r\n\r\n")
            assert one_answer(client).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("chunks", [b"zz\r\n", b"5;\0\r\n{}", b"2\r\n{}0\r\n\r\n", b"0\r\nnonsense\r\n\r\n"])
def test_a_body_of_malformed_chunks_is_400(server: ApiServer, chunks: bytes) -> None:
    with connect(server) as client:
        client.sendall(head(server, "Transfer-Encoding: chunked") + chunks)
        answer = one_answer(client)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"error"' in answer


@pytest.mark.parametrize("framing", ["Transfer-Encoding: chunked", "Content-Length: 20"])
def test_a_client_that_goes_while_it_sends_is_no_defect(server: ApiServer, framing: str) -> None:
    path = f"/jobs/{uuid.uuid4()}/completed"  # no other request of this log has it
    for lingers in (0, 1):  # reset the connection, or end it in good order
        with connect(server) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, lingers))
            client.sendall(head(server, framing, "Expect: 100-continue", path=path))
            assert b" 100 " in client.recv(100)  # it reads the body now
            client.sendall(b"5\r\n{")
    # A reset may come before the body is read: then there is nobody to refuse.
    wait_until(lambda: refusals(server, path) >= 1, "it is refused as what it is")
    assert "internal error" not in server.log.read_text()


def refusals(server: ApiServer, path: str) -> int:
    """How many requests of this path were answered 400, as the log tells."""
    lines = (json.loads(line) for line in server.log.read_text().splitlines())
    return sum((line.get("path"), line.get("status")) == (path, 400) for line in lines)


def test_a_chunked_body_within_the_limit_is_read(server: ApiServer) -> None:
    body = json.dumps(job_body()).encode()
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    with connect(server) as client:
        client.sendall(head(server, "Transfer-Encoding: chunked") + chunked)
        assert one_answer(client).startswith(b"HTTP/1.1 202 ")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(150)) + b"\r\n", b"431"),
        (b"nonsense\r\n\r\n", b"400"),
    ],
)
def test_a_head_beyond_the_limits_is_refused_as_json(
    server: ApiServer, request_bytes: bytes, status: bytes
) -> None:
    answer = answer_to(server, request_bytes)
    assert answer.startswith(b"HTTP/1.1 " + status + b" ")
    assert set(json.loads(answer.partition(b"\r\n\r\n")[2])) == {"error", "message"}


def test_who_asks_too_often_is_429_and_told_when_to_try_again(server: ApiServer) -> None:
    user = server.new_user()
    path = "/work?machine_id=n&container_group_id=g"
    refusal = next(reply for reply in (user.request("GET", path) for _ in range(200)) if reply[0] != 200)
    status, headers, body = refusal
    assert (status, headers["Content-Type"], body["error"]) == (429, "application/json", "Too Many Requests")
    assert int(headers["Retry-After"]) >= 1
    assert user.request("GET", "/jobs")[0] == 200
    assert server.new_user().request("GET", path)[0] == 200


def test_only_pages_of_the_configured_origins_may_read_answers(server: ApiServer) -> None:
    user = server.new_user()
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-kelpie-key"}
    for origin, allowed in (("https://a.example", "https://a.example"), ("https://b.example", None)):
        for reply in (
            user.request("GET", "/jobs", headers={"Origin": origin}),
            user.request("GET", "/jobs", headers={"Origin": origin}, anonymous=True),
            user.request("OPTIONS", "/jobs", headers={"Origin": origin} | asked, anonymous=True),
        ):
            assert reply[1].get("Access-Control-Allow-Origin") == allowed
            assert reply[1]["Vary"] == "Origin"


def test_hundreds_of_slow_clients_hold_up_nobody(server: ApiServer) -> None:
    slow = [connect(server) for _ in range(300)]
    try:
        for client in slow:
            client.sendall(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
        user = server.new_user()
        assert user.submit(job_body())["status"] == "pending"
        for client in slow:
            client.settimeout(30)
            with suppress(ConnectionError):
                assert client.recv(1) == b""
    finally:
        for client in slow:
            client.close()


def test_redis_away_is_503_with_retry_after_and_needs_no_restart(
    own_server: ApiServer, broker: ValkeyServer
) -> None:
    server = own_server
    user = server.new_user()
    job = user.submit(job_body())
    assert server.process is not None
    pid = server.process.pid
    broker.stop()
    calls = [
        ("GET", "/readyz", None),
        ("GET", "/jobs", None),
        ("POST", "/jobs", job_body()),
        ("GET", "/work?machine_id=n&container_group_id=g&wait=5", None),
        ("POST", f"/jobs/{job['id']}/heartbeat", {"machine_id": "n", "container_group_id": "g"}),
    ]
    for method, path, body in calls:
        status, headers, answer = user.request(method, path, json=body)
        assert status == 503, (method, path)
        assert int(headers["Retry-After"]) >= 1
        assert set(answer) == {"error", "message"}
    assert user.request("GET", "/healthz")[0] == 200
    broker.start()
    wait_until(lambda: user.request("GET", f"/jobs/{job['id']}")[0] == 200, "Redis is found again")
    wait_until(lambda: user.request("GET", "/readyz")[0] == 200, "the API is ready again")
    assert server.process.pid == pid


def test_a_stopping_api_says_so_while_it_still_serves_and_ends_its_polls_with_nothing(
    broker: ValkeyServer, tmp_path: Path
) -> None:
    with (
        ApiServer(broker.url, tmp_path, KELPIE_DRAIN_DELAY_S="3", **SETTINGS) as server,
        ThreadPoolExecutor(1) as thread,
    ):
        user = server.new_user()
        path = "/work?machine_id=n&container_group_id=g&wait=20"
        poll = thread.submit(user.request, "GET", path)
        wait_until(lambda: _polls(server) == 1, "the poll waits")
        process = server.process
        assert process is not None
        process.terminate()
        seen: set[int] = set()

        def not_ready() -> bool:
            with suppress(urllib3.exceptions.HTTPError):
                seen.add(server.http.request("GET", f"{server.url}/readyz", retries=False, timeout=5).status)
            return 503 in seen

        wait_until(not_ready, "it says that it is not ready")
        assert user.request("GET", "/jobs")[0] == 200
        status, _, answer = poll.result(30)
        assert (status, answer) == (200, [])
        assert process.wait(20) == 0


def test_a_process_that_is_told_to_end_before_it_serves_ends() -> None:
    worker = PollingWorker.__new__(PollingWorker)  # as it is between its fork and its application
    worker.alive = True
    worker.handle_exit(signal.SIGTERM, None)
    assert not worker.alive


def test_what_all_processes_have_counted_is_seen_from_each_of_them(own_server: ApiServer) -> None:
    server = own_server
    user = server.new_user()
    for _ in range(40):
        with urllib3.HTTPConnectionPool(LOOPBACK, server.port, maxsize=1) as fresh:  # any of both processes
            assert fresh.request("GET", "/jobs", headers={"X-Kelpie-Key": user.key}).status == 200
    line = 'kelpie_http_requests_total{method="GET",route="/jobs",status="200"} 40.0'
    wait_until(lambda: line in _metrics(server), "all requests are counted, once")
    wait_until(lambda: "kelpie_api_processes 2.0" in _metrics(server), "both processes are seen")
    server.stop()
    server.start()
    assert line in _metrics(server), "counters survive a restart"


def _metrics(server: ApiServer) -> str:
    with urllib3.HTTPConnectionPool(LOOPBACK, server.port, maxsize=1) as fresh:
        answer = fresh.request("GET", "/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        assert answer.status == 200
        return answer.data.decode()


def _polls(server: ApiServer) -> float:
    lines = _metrics(server).splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("kelpie_long_polls_open "))
