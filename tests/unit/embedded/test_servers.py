"""The embedded servers: what they acknowledged is there after a stop and after a crash."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
import redis
from botocore.exceptions import ClientError

from kelpie.embedded.parts import Node
from kelpie.embedded.processes import free_ports, is_free
from kelpie.embedded.s3 import S3Server, s3_client
from kelpie.embedded.valkey import ValkeyServer
from kelpie.errors import StartupError
from tests.waiting import wait_until


def test_valkey_keeps_what_it_acknowledged_over_a_crash_and_a_stop_on_the_same_port(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path) as server:
        url = server.url
        with redis.Redis.from_url(url) as client:
            client.set("written", "before the crash")
        server.kill()
        assert not server.running
        server.start()
        with redis.Redis.from_url(url) as client:
            assert client.get("written") == b"before the crash"
            client.set("written", "before the stop")
        server.stop()
        server.start()
        with redis.Redis.from_url(url) as client:
            assert client.get("written") == b"before the stop"
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("appendfsync") == {"appendfsync": "always"}


def test_valkey_listens_on_the_loopback_only_and_wants_its_password(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path) as server:
        listening = [one for one in psutil.Process(server.pid).net_connections() if one.status == "LISTEN"]
        assert {one.laddr.ip for one in listening} == {"127.0.0.1"}
        with (
            redis.Redis(host="127.0.0.1", port=server.port) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()
        assert stat.S_IMODE((tmp_path / "valkey.conf").stat().st_mode) == 0o600
        assert server.password not in " ".join(psutil.Process(server.pid).cmdline())


def test_the_wheels_server_has_an_allocator_that_stays_quick_unless_another_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no server of the machine's
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    with ValkeyServer(tmp_path / "ours") as server:
        assert "/libmimalloc.so" in Path(f"/proc/{server.pid}/maps").read_text()
    monkeypatch.setenv("LD_PRELOAD", "")
    with ValkeyServer(tmp_path / "theirs") as server:
        assert "/libmimalloc.so" not in Path(f"/proc/{server.pid}/maps").read_text()


def test_commands_of_a_node_find_this_python_where_the_machine_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    node = Node(tmp_path / "node-1", name="node-1", log=tmp_path / "node-1.log", queue="q", environment={})
    _, environment = node.prepare()
    assert shutil.which("python", path=environment["PATH"]) == str(Path(sys.executable).with_name("python"))
    theirs = tmp_path / "python"
    theirs.touch(mode=0o755)
    assert shutil.which("python", path=environment["PATH"]) == str(theirs)


def test_a_server_that_cannot_start_says_so_with_its_log(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path / "one") as one, pytest.raises(StartupError, match="in use"):
        ValkeyServer(tmp_path / "two", port=one.port).start()


def test_a_server_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import os, signal, sys
        from kelpie.embedded.valkey import ValkeyServer
        print(ValkeyServer(sys.argv[1]).start().pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    said = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, check=False)
    pid = int(said.stdout)
    wait_until(lambda: not psutil.pid_exists(pid), "valkey is gone")


def test_s3_keeps_buckets_and_objects_over_a_crash_and_a_stop_on_the_same_port(tmp_path: Path) -> None:
    with S3Server(tmp_path) as server:
        endpoint = server.endpoint
        server.ensure_bucket("kept")
        server.ensure_bucket("kept")
        client = server.client()
        data = os.urandom(3_000_000)
        client.put_object(Bucket="kept", Key="crash", Body=data)
        server.kill()
        server.start()
        assert server.endpoint == endpoint
        assert client.get_object(Bucket="kept", Key="crash")["Body"].read() == data
        client.put_object(Bucket="kept", Key="stop", Body=b"stop")
        server.stop()
    # another object, as after a restart of the process: the same ports
    with S3Server(tmp_path, access_key=server.access_key, secret_key=server.secret_key) as again:
        assert again.endpoint == endpoint
        assert client.get_object(Bucket="kept", Key="stop")["Body"].read() == b"stop"
        client.close()
        pid = again.pid
        ports = [one.laddr for one in psutil.Process(pid).net_connections() if one.status == "LISTEN"]
        assert {address.ip for address in ports} == {"127.0.0.1"}
    assert not psutil.pid_exists(pid)
    left = {f"-{address.port}." for address in ports}
    assert not [
        file for file in Path("/tmp").glob("seaweedfs-*.sock") if any(port in file.name for port in left)
    ]


def test_s3_refuses_a_wrong_key(s3: S3Server) -> None:
    stranger = s3_client(s3.endpoint, s3.access_key, "wrong")
    with pytest.raises(ClientError) as refused:
        stranger.list_buckets()
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    stranger.close()


def test_free_ports_are_distinct_and_free() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(is_free(port) for port in ports)
