"""The storage that the sync benchmark runs against: the null store, and a real server."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kelpie.embedded.processes import LOOPBACK, free_ports, spawn
from kelpie.embedded.s3 import S3Server
from tests.waiting import wait_until

SOURCE = Path(__file__).with_name("null_store.c")
BUCKET = "bench"
_NEXT_BUCKET = """
import sys, boto3
s3, (new, *old) = boto3.client("s3"), sys.argv[1:]
for bucket in old:
    s3.delete_bucket(Bucket=bucket)
s3.create_bucket(Bucket=new)
s3.put_object(Bucket=new, Key="first")  # this server takes its time over the first object of a bucket
s3.delete_object(Bucket=new, Key="first")
"""


@dataclass(frozen=True)
class Storage:
    """One server that runs."""

    name: str
    environment: Mapping[str, str]
    keeps: bool  # whether it gives back what it was sent
    fresh_bucket: Callable[[], str] = lambda: BUCKET
    """The name of a bucket that is empty; the one before is gone then, and its space with it."""


class NoCompiler(RuntimeError):
    """The null store cannot be made here."""


@contextlib.contextmanager
def null_store(home: Path, *, tls: bool, delay_ms: int) -> Iterator[Storage]:
    """The server that keeps nothing. NoCompiler says what lacks."""
    program = _compiled(home)
    port = free_ports(1)[0]
    argv = [str(program), *(["-d", str(delay_ms)] if delay_ms else []), str(port)]
    more: dict[str, str] = {}
    if tls:
        certificate, key = certificate_of(home)
        argv[1:1] = ["-c", str(certificate), "-k", str(key)]
        more["AWS_CA_BUNDLE"] = str(certificate)
    server = spawn(argv, log=home / "null_store.log")
    try:
        wait_until(lambda: _listens(port), "the null store listens")
        environment = {
            "AWS_ENDPOINT_URL_S3": f"https://localhost:{port}" if tls else f"http://{LOOPBACK}:{port}",
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        yield Storage("null store", environment | more, keeps=False)
    finally:
        server.kill()
        server.wait()


class _TlsServer(S3Server):
    """The real server, with TLS on a port beside the plain one."""

    def __init__(self, directory: Path, certificate: Path, key: Path) -> None:
        super().__init__(directory)
        self.tls_port = free_ports(1)[0]
        self._files = (certificate, key)

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        """The same, and where TLS is spoken."""
        argv, environ = super().prepare()
        certificate, key = self._files
        tls = [f"-s3.port.https={self.tls_port}", f"-s3.cert.file={certificate}", f"-s3.key.file={key}"]
        return [*argv, *tls], environ


@contextlib.contextmanager
def real_server(home: Path, *, tls: bool) -> Iterator[Storage]:
    """SeaweedFS with a bucket."""
    certificate, key = certificate_of(home)
    with _TlsServer(home / "s3", certificate, key) as server:
        numbers = itertools.count()

        def fresh_bucket() -> str:
            # in a process of its own: loading boto3 here would show in the memory of every child
            number = next(numbers)
            names = [f"{BUCKET}-{number}", f"{BUCKET}-{number - 1}"]
            argv = [sys.executable, "-c", _NEXT_BUCKET, *names[: 1 + bool(number)]]
            subprocess.run(argv, env=os.environ | server.environment, check=True)
            return names[0]

        environment = dict(server.environment)
        if tls:
            environment["AWS_ENDPOINT_URL_S3"] = f"https://localhost:{server.tls_port}"
            environment["AWS_CA_BUNDLE"] = str(certificate)
        yield Storage("real server", environment, keeps=True, fresh_bucket=fresh_bucket)


def _compiled(home: Path) -> Path:
    program = home / "null_store"
    if not program.exists():
        argv = ["cc", "-O2", "-pthread", str(SOURCE), "-o", str(program), "-lssl", "-lcrypto"]
        try:
            made = subprocess.run(argv, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise NoCompiler("the null store needs a C compiler (cc)") from None
        if made.returncode:
            raise NoCompiler(f"the null store cannot be compiled; OpenSSL's headers? {made.stderr[-500:]}")
    return program


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


def certificate_of(home: Path) -> tuple[Path, Path]:
    """A certificate for localhost, its own authority, and its key."""
    certificate, key = home / "localhost.pem", home / "localhost.key"
    if not certificate.exists():
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        private = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=7))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(private, hashes.SHA256())
        )
        certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        key.write_bytes(
            private.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
    assert ssl.create_default_context(cafile=str(certificate))
    return certificate, key
