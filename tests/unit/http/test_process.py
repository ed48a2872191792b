"""The API as the process that operators run: its start, its log and its end."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import redis
import urllib3

from kelpie.embedded.processes import LOOPBACK
from kelpie.embedded.valkey import ValkeyServer
from tests.api import ApiServer, ApiUser, environment_without_kelpie
from tests.factories import job_body
from tests.identity import own_certificate
from tests.waiting import wait_until

KEY = "k" * 40


@pytest.fixture
def server(valkey: ValkeyServer, tmp_path: Path) -> Iterator[ApiServer]:
    """An API of this test alone."""
    with ApiServer(valkey.url, tmp_path, KELPIE_LOG_LEVEL="debug") as server:
        yield server


def start(**settings: str) -> subprocess.CompletedProcess[str]:
    """Run `kelpie api` that cannot start, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "kelpie.cli", "api", "--bind", f"{LOOPBACK}:0", "--workers", "1"],
        env=environment_without_kelpie() | {"KELPIE_ADMIN_KEY": KEY} | settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_short_admin_key_is_refused_by_name_and_not_shown(valkey: ValkeyServer) -> None:
    ended = start(KELPIE_REDIS_URL=valkey.url, KELPIE_ADMIN_KEY="swordfish")
    assert ended.returncode == 78
    assert "KELPIE_ADMIN_KEY" in ended.stderr
    assert "swordfish" not in ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr


def test_wrong_settings_are_all_refused_by_name() -> None:
    ended = start(KELPIE_MAX_BODY_BYTES="many", KELPIE_REDIS_URL="http://x")
    assert ended.returncode == 78
    assert "KELPIE_MAX_BODY_BYTES" in ended.stderr
    assert "KELPIE_REDIS_URL" in ended.stderr


def test_redis_away_for_too_long_ends_the_start_with_its_own_code() -> None:
    ended = start(KELPIE_REDIS_URL="redis://127.0.0.1:1/0", KELPIE_REDIS_WAIT_S="1")
    assert ended.returncode == 69
    assert "Redis" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_redis_that_would_evict_jobs_is_refused(valkey: ValkeyServer) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    ended = start(KELPIE_REDIS_URL=valkey.url)
    assert ended.returncode == 78
    assert "noeviction" in ended.stderr


def test_weak_persistence_is_warned_of_at_start(valkey: ValkeyServer, tmp_path: Path) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        client.config_set("appendfsync", "everysec")
        try:
            with ApiServer(valkey.url, tmp_path) as server:
                assert "appendfsync everysec" in server.log.read_text()
        finally:
            client.config_set("appendfsync", "always")


def test_an_api_that_starts_before_redis_waits_for_it(tmp_path: Path) -> None:
    broker = ValkeyServer(tmp_path / "valkey")
    with broker:
        url = broker.url
        broker.stop()
        server = ApiServer(url, tmp_path)
        server.launch()
        try:
            wait_until(lambda: "cannot be reached yet" in server.log.read_text(), "the API waits")
            broker.start()
            server.wait_ready()
        finally:
            server.stop()


def test_the_admins_key_in_the_environment_replaces_the_last_one(
    valkey: ValkeyServer, tmp_path: Path
) -> None:
    server = ApiServer(valkey.url, tmp_path)
    old = server.admin_key
    with server:
        assert server.admin().ok("GET", "/users/me")["is_admin"]
    server.admin_key = "n" * 40
    with server:
        assert server.admin().ok("GET", "/users/me")["is_admin"]
        assert ApiUser(server, old).request("GET", "/users/me")[0] == 403


def test_a_taken_address_ends_the_start(server: ApiServer) -> None:
    argv = [
        sys.executable,
        "-m",
        "kelpie.cli",
        "api",
        "--bind",
        f"{LOOPBACK}:{server.port}",
        "--workers",
        "1",
    ]
    env = environment_without_kelpie() | {
        "KELPIE_REDIS_URL": server.redis_url,
        "KELPIE_ADMIN_KEY": server.admin_key,
    }
    ended = subprocess.run(argv, env=env, capture_output=True, timeout=60, check=False)
    assert ended.returncode == 1


def test_the_log_has_every_request_and_no_secret(server: ApiServer) -> None:
    user = server.new_user()
    job = user.submit(job_body(environment={"TOKEN": "hush-hush"}))
    request_id = "poll-0123456789abcdef"
    path = f"/work?machine_id=node-7&container_group_id={job['container_group_id']}"
    [leased] = user.ok("GET", path, headers={"Idempotency-Key": request_id})
    report = {"machine_id": "node-7", "container_group_id": "g", "lease": leased["lease"]}
    user.ok("POST", f"/jobs/{job['id']}/completed", json=report)
    wait_until(lambda: f"/jobs/{job['id']}/completed" in server.log.read_text(), "the request is logged")
    log = server.log.read_text()
    assert '"path": "/work"' in log
    for secret in (user.key, server.admin_key, leased["lease"], request_id, "hush-hush"):
        assert secret not in log


def test_idle_connections_do_not_hold_up_the_end(server: ApiServer) -> None:
    with urllib3.HTTPConnectionPool(LOOPBACK, server.port, maxsize=1) as pool:
        assert pool.request("GET", "/healthz").status == 200
        process = server.process
        assert process is not None
        process.terminate()
        assert process.wait(10) == 0  # a kept connection lasts 75 s


def test_workers_of_a_killed_api_end_by_themselves(server: ApiServer) -> None:
    process = psutil.Process(server.pid)
    wait_until(lambda: len(process.children()) == 2, "both workers")
    workers = process.children()
    server.kill()
    wait_until(lambda: not any(worker.is_running() for worker in workers), "the workers have ended")


def test_a_worker_that_dies_is_replaced(server: ApiServer) -> None:
    victim = psutil.Process(server.pid).children()[0]
    victim.kill()
    wait_until(
        lambda: {child.pid for child in psutil.Process(server.pid).children()} - {victim.pid},
        "another worker",
    )
    wait_until(server.is_ready, "the API serves")


def test_hundreds_of_open_polls_leave_the_api_answering(server: ApiServer) -> None:
    user = server.new_user()
    polls = 300
    server.http = urllib3.PoolManager(retries=False, maxsize=polls + 1)
    path = "/work?container_group_id=g&wait=20&machine_id="
    with ThreadPoolExecutor(polls) as pool:
        waiting = [pool.submit(user.ok, "GET", f"{path}node-{number}") for number in range(polls)]
        wait_until(lambda: _connections(server) >= polls, "all polls are open")
        submitted = [user.submit(job_body(container_group_id="g")) for _ in range(20)]
        wait_until(lambda: sum(poll.done() for poll in waiting) >= 20, "twenty polls have a job")
        server.stop()
        got = [job["id"] for poll in waiting for job in poll.result()]
    assert sorted(got) == sorted(job["id"] for job in submitted)


def _connections(server: ApiServer) -> int:
    return sum(
        connection.status == psutil.CONN_ESTABLISHED
        for worker in psutil.Process(server.pid).children()
        for connection in worker.net_connections()
        if connection.laddr.port == server.port
    )


def over_tls(valkey: ValkeyServer, folder: Path, **settings: str) -> ApiServer:
    """An API with a certificate, and a client that trusts it."""
    pair = str(own_certificate(folder / "ca.crt"))
    files = {"KELPIE_TLS_CERT_FILE": pair, "KELPIE_TLS_KEY_FILE": pair}
    server = ApiServer(valkey.url, folder / "api", **files, **settings)
    server.url = server.url.replace("http:", "https:")
    server.http = urllib3.PoolManager(ca_certs=str(folder / "ca.crt"), retries=False)
    return server


def test_over_tls_nobody_who_is_silent_or_gone_holds_anything(valkey: ValkeyServer, tmp_path: Path) -> None:
    with over_tls(valkey, tmp_path, KELPIE_REQUEST_TIMEOUT_S="1") as server:
        address = (LOOPBACK, server.port)
        with socket.create_connection(address) as silent, socket.create_connection(address) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")  # plain HTTP
            silent.settimeout(20)
            assert silent.recv(1) == b""
        user, trusting = server.new_user(), ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
        poll = f"GET /work?machine_id=n&container_group_id=g&wait=20 HTTP/1.1\r\nX-Kelpie-Key: {user.key}"
        with trusting.wrap_socket(socket.create_connection(address), server_hostname=LOOPBACK) as client:
            client.sendall(f"{poll}\r\nHost: api\r\n\r\n".encode())
            metrics = "kelpie_long_polls_open 1.0"
            wait_until(lambda: metrics in server.admin().ok("GET", "/metrics"), "a poll is open")
            with suppress(OSError):  # a client that says good-bye, as most do, and goes
                client.settimeout(0.1)
                client.unwrap()
        job = user.submit(job_body(container_group_id="g"))
        metrics = "kelpie_long_polls_open 0.0"
        wait_until(lambda: metrics in server.admin().ok("GET", "/metrics"), "the poll has ended")
        assert user.job(job["id"])["status"] == "pending"
        assert "Traceback" not in server.log.read_text()


def test_the_api_speaks_tls_with_a_certificate_from_a_file(valkey: ValkeyServer, tmp_path: Path) -> None:
    with over_tls(valkey, tmp_path) as server:
        user = server.new_user()
        assert user.submit(job_body())["status"] == "pending"
        with ThreadPoolExecutor(1) as pool:
            path = "/work?machine_id=n&container_group_id=none&wait=20"
            poll = pool.submit(user.request, "GET", path)
            metric = "kelpie_long_polls_open 1.0"
            wait_until(lambda: metric in server.admin().ok("GET", "/metrics"), "a poll is open")
            server.stop(grace_s=15)  # open polls do not hold up its end
            assert poll.result()[2] == []


def test_a_certificate_without_its_key_is_refused_by_name(tmp_path: Path) -> None:
    pair = own_certificate(tmp_path / "ca.crt")
    ended = start(KELPIE_TLS_CERT_FILE=str(pair))
    assert ended.returncode == 78
    assert "KELPIE_TLS_KEY_FILE" in ended.stderr
