"""Real HTTP servers of the loopback that stand for an auth service and a JWKS URL, and who signs tokens."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from joserfc import jwt
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Service:
    """What came, and what is answered. A test changes it as it goes."""

    port: int = 0
    scheme: str = "http"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    answer: Callable[[Asked], bytes] = lambda _: b"{}"
    asked: list[Asked] = field(default_factory=list)
    going: threading.Event = field(default_factory=threading.Event)  # cleared: it answers none

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/ask"


@contextmanager
def service(tls: Path | None = None) -> Iterator[Service]:
    """A service on a free port; with ``tls``, a file of a certificate and its key, by HTTPS."""
    state = Service(scheme="http" if tls is None else "https")
    state.going.set()
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, self.path, headers, body)
            state.asked.append(asked)
            while not state.going.wait(0.02) and not ended.is_set():
                pass
            data = state.answer(asked)
            with suppress(OSError):  # the other side has waited for long enough
                self.send_response(state.status)
                for name, text in ({"Content-Length": str(len(data))} | state.headers).items():
                    self.send_header(name, text)
                self.end_headers()
                self.wfile.write(data)

        do_GET = do_POST = do_PATCH = handle_any  # noqa: N815 -- the names that http.server calls

        def log_message(self, *_: object) -> None:
            """Tests read what came from ``asked``."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


def own_certificate(certificate: Path) -> Path:
    """Writes the certificate of an authority of one, for 127.0.0.1; returns a file with it and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a cluster")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    public = made.public_bytes(Encoding.PEM)
    certificate.write_bytes(public)
    both = certificate.with_suffix(".both")
    both.write_bytes(public + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return both


def verdict(organization: str = "acme", organization_id: str = "org-1", **overrides: Any) -> dict[str, Any]:
    """What an auth service answers about a good key."""
    return {
        "is_api_key_valid": True,
        "is_organization_name_valid": True,
        "is_entitled": True,
        "organization_id": organization_id,
        "organization_name": organization,
    } | overrides


@dataclass
class AuthService:
    """An auth service that knows some keys."""

    service: Service
    keys: dict[str, str] = field(default_factory=dict)  # key → its organization
    ids: dict[str, str] = field(default_factory=dict)  # organization → its id, where that is not its name
    entitled: bool = True

    def __post_init__(self) -> None:
        self.service.answer = self._answer

    def _answer(self, asked: Asked) -> bytes:
        organization = asked.json["organization_name"]
        good = verdict(
            organization,
            self.ids.get(organization, f"id of {organization}"),
            is_api_key_valid=self.keys.get(asked.json["api_key"]) == organization,
            is_organization_name_valid=organization in self.keys.values(),
            is_entitled=self.entitled,
        )
        return json.dumps(good).encode()


class Signer:
    """Who issues tokens: its keys by id, and what it publishes."""

    def __init__(self, *kids: str) -> None:
        self.keys: dict[str, Key] = {}
        for kid in kids:
            self.add(kid)

    def add(self, kid: str, kind: str = "RSA") -> Key:
        made: Key
        if kind == "RSA":
            made = RSAKey.generate_key(2048, {"kid": kid})
        elif kind == "OKP":
            made = OKPKey.generate_key("Ed25519", {"kid": kid})
        else:
            made = ECKey.generate_key(kind, {"kid": kid})
        self.keys[kid] = made
        return made

    def jwks(self) -> dict[str, Any]:
        """The public keys as they are published."""
        return {"keys": [key.as_dict(private=False, use="sig") for key in self.keys.values()]}

    def publish(self, at: Service) -> None:
        """Let the service answer with whatever the keys are when it is asked."""
        at.answer = lambda _: json.dumps(self.jwks()).encode()

    def token(self, *, kid: str | None = None, alg: str = "RS256", **claims: Any) -> str:
        """A token of node machine-1 of the organization acme. A claim that is None is left out."""
        kid = kid or next(iter(self.keys))
        said = {
            "salad_machine_id": "machine-1",
            "salad_organization_name": "acme",
            "salad_workload_id": "workload-1",
            "salad_workload_name": "simulations",
            "exp": int(time.time()) + 600,
        } | claims
        said = {name: value for name, value in said.items() if value is not None}
        return jwt.encode({"alg": alg, "kid": kid}, said, self.keys[kid], algorithms=[alg])
