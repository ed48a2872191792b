"""The parts of deploy/compose.yaml fit together: Valkey with its users, secrets in files, the first keys."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from kelpie import Client
from kelpie.embedded.processes import LOOPBACK, Server, free_ports
from kelpie.embedded.s3 import S3Server
from kelpie.embedded.valkey import find_server
from kelpie.job import JobStatus
from tests.api import ApiServer, environment_without_kelpie
from tests.platform import PlatformProcess
from tests.system.fleet import Node

DEPLOY = Path(__file__).parents[2] / "deploy"
PONG = b"+OK\r\n+PONG\r\n"


class Valkey(Server):
    """A Valkey as valkey.conf has it, but on the loopback and in a folder of this test."""

    name = "valkey"

    def __init__(self, directory: Path, users: Path) -> None:
        super().__init__(directory)
        self.port = free_ports(1)[0]
        self.users = users

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        text = (DEPLOY / "valkey" / "valkey.conf").read_text()
        for old, new in (
            (r"^bind .*", f"bind {LOOPBACK}"),
            (r"^port .*", f"port {self.port}"),
            (r"^dir .*", f"dir {self.directory}"),
            (r"^aclfile .*", f"aclfile {self.users}"),
        ):
            text, count = re.subn(old, new, text, flags=re.M)
            assert count == 1, old
        (self.directory / "valkey.conf").write_text(text)
        program, env = find_server()
        return [program, str(self.directory / "valkey.conf")], env

    def is_ready(self) -> bool:
        """As the health check of compose.yaml asks."""
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
                connection.sendall(b"AUTH health health\r\nPING\r\n")
                return connection.makefile("rb").read(len(PONG)) == PONG
        except OSError:
            return False


class S3(S3Server):
    """An S3 server with the security.toml of compose.yaml, and the secrets that it names."""

    def __init__(self, directory: Path, secrets: Path) -> None:
        super().__init__(directory)
        self.secrets = secrets

    @property
    def grpc_port(self) -> int:
        return self._ports["s3_grpc"]

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        argv, environment = super().prepare()
        home = self.directory / "home"
        (home / ".seaweedfs").mkdir(parents=True, exist_ok=True)
        text = (DEPLOY / "compose" / "s3_security.toml").read_text()
        assert "/run/secrets" in text
        (home / ".seaweedfs" / "security.toml").write_text(text.replace("/run/secrets", str(self.secrets)))
        return argv, environment | {"HOME": str(home)}


class Api(ApiServer):
    """An API that has everything from files."""

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        argv, _ = super().prepare()
        return argv, self.settings


class Platform(PlatformProcess):
    """A platform that has everything from files."""

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        argv, _ = super().prepare()
        return argv, self.settings


def test_a_job_completes_with_the_secrets_users_and_first_keys_of_compose(tmp_path: Path) -> None:
    bucket = "first"
    secrets, keys = tmp_path / "secrets", tmp_path / "keys"
    for folder in (keys / "user", keys / "node"):
        folder.mkdir(parents=True)
    valkey = Valkey(tmp_path / "valkey", secrets / "users.acl")
    make = [str(DEPLOY / "compose" / "make-secrets"), str(secrets), f"{LOOPBACK}:{valkey.port}"]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    assert secrets.stat().st_mode & 0o077 == 0
    again = subprocess.run(make, check=False, capture_output=True, text=True)
    assert (again.returncode, "has secrets already" in again.stderr) == (1, True)

    with ExitStack() as stack:
        stack.enter_context(valkey)
        s3 = stack.enter_context(S3(tmp_path / "s3", secrets))
        assert_closed(s3.grpc_port)
        files = {
            "KELPIE_ADMIN_KEY_FILE": str(secrets / "admin_key"),
            "KELPIE_METRICS_TOKEN_FILE": str(secrets / "metrics_token"),
        }
        api = stack.enter_context(
            Api("", tmp_path / "api", KELPIE_REDIS_URL_FILE=str(secrets / "redis_url_api"), **files)
        )
        stack.enter_context(
            Platform("", tmp_path / "platform", KELPIE_REDIS_URL_FILE=str(secrets / "redis_url_platform"))
        )
        first = {
            **environment_without_kelpie(),
            **s3.environment,
            "KELPIE_API_URL": api.url,
            "KEYS_DIR": str(keys),
            "ADMIN_KEY_FILE": files["KELPIE_ADMIN_KEY_FILE"],
            "BUCKET": bucket,
        }
        for _ in range(2):  # it may be run again
            run = [sys.executable, str(DEPLOY / "compose" / "first_user.py")]
            subprocess.run(run, env=first, check=True)
        node = Node(
            "node-1",
            tmp_path / "node-1",
            environment_without_kelpie()
            | s3.environment
            | {
                "KELPIE_API_URL": api.url,
                "KELPIE_API_KEY_FILE": str(keys / "node" / "key"),
                "KELPIE_IMDS_URL": "http://127.0.0.1:9",
                "KELPIE_NOTICES": "none",
            },
        )
        stack.callback(node.end)
        with Client(api.url, (keys / "user" / "key").read_text()) as client:
            job = client.submit(
                ["sh", "-c", "env; echo hi > out; mkdir o; mv out o"],
                queue="default",
                after=[f"o:s3://{bucket}/o"],
            )
            assert client.wait(job.id, 60).status is JobStatus.COMPLETED
        token = (secrets / "metrics_token").read_text().strip()
        asked = api.http.request("GET", f"{api.url}/metrics", headers={"Authorization": f"Bearer {token}"})
        assert asked.status == 200
        for word in ("redis_url_api", "redis_url_platform", "admin_key"):
            secret = (secrets / word).read_text().strip()
            for pid in (api.pid, node.process.pid):
                assert secret.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
        assert not node.says((keys / "node" / "key").read_text())


def assert_closed(port: int) -> None:
    """The server there speaks with nobody who has no certificate, and to nobody without TLS."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((LOOPBACK, port), timeout=5) as plain,
        pytest.raises(ssl.SSLError, match="certificate required"),
        context.wrap_socket(plain) as client,
    ):
        client.recv(1)  # a client of TLS 1.3 hears of it with the first bytes
    with socket.create_connection((LOOPBACK, port), timeout=5) as plain:
        plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
        assert b"\x04" not in plain.recv(100)[3:4]  # no SETTINGS: what came back, if anything, is an alert
