"""Logs people in through a provider of identities: OpenID Connect, authorization code with PKCE.

What one log-in must remember (state, nonce, verifier) is the caller's to keep between the two requests, in
the browser that makes them.
"""

from __future__ import annotations

import base64
import hmac
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core.claims import CodeIDToken
from joserfc.errors import JoseError

from kelpie.config.oidc import LOOPBACK_HOSTS
from kelpie.errors import ForbiddenError, UnavailableError
from kelpie.identity.answers import Answers
from kelpie.identity.key_set import KeySet
from kelpie.identity.signed import BadTokenError, reason_of, verified
from kelpie.identity.web import Web

MAX_ANSWER_BYTES = 256 * 1024
MAX_CODE_CHARS = 4096
MAX_NAME_CHARS = 128
LEEWAY_S = 30
DISCOVERY_KEPT_S = 3600.0
RENEW_KEYS_AFTER_S = 30.0
OUTAGE_S = 3600.0

REFUSALS = frozenset({400, 401, 403})
"""Statuses by which the issuer says that a code is not good, rather than that it is away."""


class Attempt(NamedTuple):
    """What a browser holds while somebody logs in elsewhere."""

    state: str
    nonce: str
    verifier: str


@dataclass(frozen=True, slots=True)
class Client:
    """What this Kelpie is to the issuer."""

    id: str
    secret: str | None
    redirect_url: str
    scopes: str


@dataclass(frozen=True, slots=True)
class _Issuer:
    """What the issuer publishes of itself."""

    authorization: str
    token: str
    keys: str
    takes_basic: bool


class OpenIdLogin:
    """One issuer. Safe to share between threads and greenlets."""

    def __init__(
        self,
        issuer: str,
        client: Client,
        *,
        claim: str,
        timeout_s: float,
        ca_file: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.issuer = issuer
        self._client = client
        self._claim = claim
        self._timeout_s = timeout_s
        self._ca_file = ca_file
        self._clock = clock
        self._discovery: Answers[_Issuer] = Answers(
            "The provider of identities",
            keep_s=DISCOVERY_KEPT_S,
            wait_s=2 * timeout_s,
            outage_s=OUTAGE_S,
            capacity=1,
        )
        self._keys: dict[str, KeySet] = {}

    @property
    def host(self) -> str:
        """The issuer's name for people."""
        return urlsplit(self.issuer).netloc

    @staticmethod
    def begin() -> Attempt:
        """An attempt that nobody can guess."""
        return Attempt(*(secrets.token_urlsafe(32) for _ in range(3)))

    def address(self, attempt: Attempt) -> str:
        """Where the browser goes to log in. Raises UnavailableError."""
        return str(
            prepare_grant_uri(
                self._found().authorization,
                self._client.id,
                "code",
                redirect_uri=self._client.redirect_url,
                scope=self._client.scopes,
                state=attempt.state,
                nonce=attempt.nonce,
                code_challenge=create_s256_code_challenge(attempt.verifier),
                code_challenge_method="S256",
            )
        )

    def finish(self, kept: Sequence[str], answer: Mapping[str, str]) -> str:
        """The name of who has logged in, from the attempt that was kept and what the browser came back with.

        Raises ForbiddenError when he has not, UnavailableError when the issuer cannot be asked.
        """
        attempt = Attempt(*kept)
        if not hmac.compare_digest(answer.get("state", "").encode(), attempt.state.encode()):
            raise ForbiddenError(
                "This log-in was not begun in this browser, or too long ago; begin it again."
            )
        if answer.get("iss", self.issuer) != self.issuer:  # RFC 9207
            raise ForbiddenError("The answer is one of another provider.")
        code = answer.get("code", "")
        if "error" in answer or not code or len(code) > MAX_CODE_CHARS:
            raise ForbiddenError(f"{self.host} has not logged you in.")
        issuer = self._found()
        told = self._exchange(issuer, code, attempt.verifier)
        token = told.get("id_token")
        if not isinstance(token, str):
            raise ForbiddenError(f"{self.host} has given no ID token.")
        return self._name_in(self._claims(issuer, token, attempt.nonce, told.get("access_token")))

    def _exchange(self, issuer: _Issuer, code: str, verifier: str) -> dict[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._client.redirect_url,
            "code_verifier": verifier,
        }
        headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
        if self._client.secret is None:
            form["client_id"] = self._client.id
        elif issuer.takes_basic:  # RFC 6749 has both encoded like the fields of a form
            pair = f"{quote(self._client.id, safe='')}:{quote(self._client.secret, safe='')}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form |= {"client_id": self._client.id, "client_secret": self._client.secret}
        try:
            return self._web(issuer.token).ask("POST", headers, urlencode(form).encode(), refusals=REFUSALS)
        except ForbiddenError:
            raise ForbiddenError(f"{self.host} does not know this log-in any more; begin it again.") from None

    def _claims(self, issuer: _Issuer, token: str, nonce: str, access_token: object) -> Mapping[str, Any]:
        keys = self._keys.get(issuer.keys)
        if keys is None:
            keys = KeySet(
                issuer.keys,
                timeout_s=self._timeout_s,
                keep_s=DISCOVERY_KEPT_S,
                renew_after_s=RENEW_KEYS_AFTER_S,
                outage_s=OUTAGE_S,
                ca_file=self._ca_file,
            )
            self._keys = {issuer.keys: keys}
        try:
            header, claims = verified(token, keys)
            rules = {
                "iss": {"essential": True, "value": self.issuer},
                "aud": {"essential": True, "value": self._client.id},
                "nonce": {"essential": True, "value": nonce},
            }
            known = {"nonce": nonce, "client_id": self._client.id, "access_token": access_token}
            CodeIDToken(claims, header, rules, known).validate(now=int(self._clock()), leeway=LEEWAY_S)
        except BadTokenError as error:
            raise self._refused(str(error)) from None
        except JoseError as error:
            raise self._refused(reason_of(error)) from None
        except (TypeError, ValueError, KeyError, AttributeError):
            raise self._refused("its claims are malformed") from None
        return claims

    def _name_in(self, claims: Mapping[str, Any]) -> str:
        name = claims.get(self._claim)
        if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_CHARS or not name.isprintable():
            raise self._refused(f"its claim {self._claim} is no name of up to {MAX_NAME_CHARS} characters")
        if self._claim == "email" and claims.get("email_verified") is not True:
            raise self._refused("the address in its claim email is not verified")
        return name

    def _refused(self, why: str) -> ForbiddenError:
        return ForbiddenError(f"The ID token of {self.host} is not accepted: {why}.")

    def _found(self) -> _Issuer:
        found = self._discovery.get("issuer", self._discover)
        if found is None:
            raise UnavailableError(f"{self.host} does not say where people log in.")
        return found

    def _discover(self) -> _Issuer:
        told = self._web(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration").ask(
            "GET", {"Accept": "application/json"}
        )
        if told.get("issuer") != self.issuer:
            raise UnavailableError(
                f"{self.issuer} says that it is another issuer; KELPIE_OIDC_ISSUER must be that"
            )
        methods = told.get("token_endpoint_auth_methods_supported")
        return _Issuer(
            authorization=self._endpoint(told, "authorization_endpoint"),
            token=self._endpoint(told, "token_endpoint"),
            keys=self._endpoint(told, "jwks_uri"),
            takes_basic=not isinstance(methods, list) or "client_secret_basic" in methods,
        )

    def _endpoint(self, told: Mapping[str, Any], name: str) -> str:
        url = told.get(name)
        parts = urlsplit(url) if isinstance(url, str) else None
        local = parts is not None and parts.scheme == "http" and parts.hostname in LOOPBACK_HOSTS
        if parts is None or (not (parts.scheme == "https" and parts.hostname) and not local):
            raise UnavailableError(f"{self.issuer} publishes no {name} that begins with https://")
        return str(url)

    def _web(self, url: str) -> Web:
        return Web(url, timeout_s=self._timeout_s, max_bytes=MAX_ANSWER_BYTES, ca_file=self._ca_file)
