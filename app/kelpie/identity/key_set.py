"""The public keys behind nodes' tokens: fetched from the JWKS URL, remembered, renewed when one is new."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey, import_key

from kelpie.errors import UnavailableError
from kelpie.identity.answers import Answers
from kelpie.identity.web import Web

MAX_ANSWER_BYTES = 1024 * 1024
MAX_KEYS = 200
MIN_RSA_BITS = 2048

KEY_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
"""The type of key that verifies an algorithm, by the first two letters of its name."""


class KeySet:
    """Public keys by key id. A set that cannot be fetched any more is used for ``outage_s`` past its time."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        keep_s: float,
        renew_after_s: float,
        outage_s: float,
        ca_file: Path | None = None,
        token_file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._web = Web(url, timeout_s=timeout_s, max_bytes=MAX_ANSWER_BYTES, ca_file=ca_file)
        self._token_file = token_file
        self._renew_after_s = renew_after_s
        self._answers: Answers[list[Key]] = Answers(
            "The service that publishes the keys of nodes' tokens",
            keep_s=keep_s,
            wait_s=2 * timeout_s,
            outage_s=outage_s,
            capacity=1,
            clock=clock,
        )

    def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The key that may verify a token; None when there is none even among newly fetched ones.

        An unknown key id has the set fetched anew, but not more often than every ``renew_after_s``. Raises
        UnavailableError when it cannot be fetched.
        """
        found = _pick(self._answers.get("keys", self._fetch), kid, algorithm)
        if found is None:
            newer = self._answers.renew("keys", self._fetch, min_age_s=self._renew_after_s)
            found = _pick(newer, kid, algorithm)
        return found

    def _fetch(self) -> list[Key]:
        headers = {"Accept": "application/json, application/jwk-set+json"}
        if self._token_file is not None:
            headers["Authorization"] = f"Bearer {_read(self._token_file)}"
        return keys_of(self._web.ask("GET", headers))


def keys_of(answer: dict[str, Any]) -> list[Key]:
    """The keys of a JWKS that can verify signatures; raises UnavailableError when there are none."""
    entries = answer.get("keys")
    if not isinstance(entries, list):
        raise UnavailableError("the JWKS holds no list of keys")
    keys = [key for entry in entries[:MAX_KEYS] if (key := _verifier(entry)) is not None]
    if not keys:
        raise UnavailableError("the JWKS holds no public key that verifies signatures")
    return keys


def _verifier(entry: object) -> Key | None:
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or entry.get("kty") == "oct":
        return None
    try:
        key = import_key(entry)
        if isinstance(key, RSAKey) and key.public_key.key_size < MIN_RSA_BITS:
            return None
    except (JoseError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None  # of a kind that is not understood, as RFC 7517 has it
    return key if isinstance(key, RSAKey | ECKey | OKPKey) else None


def _pick(keys: list[Key] | None, kid: str | None, algorithm: str) -> Key | None:
    wanted = KEY_TYPES[algorithm[:2]]
    fit = [key for key in keys or () if key.key_type == wanted and key.alg in (None, algorithm)]
    if kid is not None:
        fit = [key for key in fit if key.kid == kid]
    # Without a key id only a single key is meant beyond doubt.
    return fit[0] if len(fit) == 1 else None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise UnavailableError(f"{file} cannot be read: {type(error).__name__}") from None
