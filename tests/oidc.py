"""A real HTTP server of the loopback that is a provider of identities: OpenID Connect, code with PKCE."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.identity import Asked, Service, Signer, service

CLIENT_ID, CLIENT_SECRET = "kelpie", "a secret / of:kelpie"


@dataclass
class Issuer:
    """Who logs in there, and what is said of him. A test changes it as it goes."""

    service: Service
    signer: Signer = field(default_factory=lambda: Signer("first"))
    claims: dict[str, Any] = field(default_factory=dict)  # over those of a good token; None: left out
    kid: str | None = None
    token: str | None = None  # given instead of one of ours
    error: str | None = None  # given instead of a code
    codes: dict[str, dict[str, str]] = field(default_factory=dict)  # not redeemed yet → what was asked with

    def __post_init__(self) -> None:
        self.service.answer = self._answer

    @property
    def url(self) -> str:
        """The issuer. Another site than the API, which browsers know by 127.0.0.1."""
        return f"http://localhost:{self.service.port}/realm"

    def settings(self, redirect_url: str) -> dict[str, str]:
        """What the API is told."""
        return {
            "KELPIE_OIDC_ISSUER": self.url,
            "KELPIE_OIDC_CLIENT_ID": CLIENT_ID,
            "KELPIE_OIDC_CLIENT_SECRET": CLIENT_SECRET,
            "KELPIE_OIDC_REDIRECT_URL": redirect_url,
        }

    def log_in(self, address: str) -> dict[str, str]:
        """What a browser that somebody logs in with is sent back with, having been sent to the address."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        assert asked["client_id"] == CLIENT_ID
        assert asked["scope"] == "openid email"
        if self.error is not None:
            return {"error": self.error, "state": asked["state"]}
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        return {"code": code, "state": asked["state"], "iss": self.url}

    def _answer(self, asked: Asked) -> bytes:
        self.service.status, self.service.headers = 200, {}
        place = urlsplit(asked.path).path
        if place == "/realm/.well-known/openid-configuration":
            return json.dumps(
                {
                    "issuer": self.url,
                    "authorization_endpoint": f"{self.url}/authorize",
                    "token_endpoint": f"{self.url}/token",
                    "jwks_uri": f"{self.url}/keys",
                    "token_endpoint_auth_methods_supported": ["client_secret_basic"],
                }
            ).encode()
        if place == "/realm/keys":
            return json.dumps(self.signer.jwks()).encode()
        if place == "/realm/authorize":
            back = self.log_in(asked.path)
            to = parse_qs(urlsplit(asked.path).query)["redirect_uri"][0]
            self.service.status, self.service.headers = 302, {"Location": f"{to}?{urlencode(back)}"}
            return b""
        assert place == "/realm/token"
        return self._redeemed(asked)

    def _redeemed(self, asked: Asked) -> bytes:
        form = {name: values[0] for name, values in parse_qs(asked.body.decode()).items()}
        known = self.codes.pop(form["code"], None)
        pair = base64.b64encode(b"kelpie:a%20secret%20%2F%20of%3Akelpie").decode()
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        if (
            known is None
            or asked.headers.get("authorization") != f"Basic {pair}"
            or known["code_challenge"] != base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            or known["redirect_uri"] != form["redirect_uri"]
        ):
            self.service.status = 400
            return b'{"error": "invalid_grant"}'
        said = {
            "iss": self.url,
            "sub": "person-1",
            "aud": CLIENT_ID,
            "iat": int(time.time()),
            "nonce": known["nonce"],
            "email": "ada@example.org",
            "email_verified": True,
            "salad_machine_id": None,
            "salad_organization_name": None,
        } | self.claims
        token = self.token or self.signer.token(kid=self.kid, **said)
        return json.dumps({"token_type": "Bearer", "access_token": "at", "id_token": token}).encode()


@contextmanager
def issuer() -> Iterator[Issuer]:
    """An issuer on a free port."""
    with service() as one:
        yield Issuer(one)
