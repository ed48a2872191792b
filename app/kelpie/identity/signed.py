"""Signed tokens (JWT): whose signature counts, and what they say."""

from __future__ import annotations

import warnings
from typing import Any, Protocol

from joserfc import jws, jwt
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import Key

ALGORITHMS = (
    *(f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)),
    "EdDSA",
    "Ed25519",
)
"""Asymmetric ones only: with a symmetric one, whoever can verify a token can also make one."""

MAX_TOKEN_CHARS = 8192

_REGISTRY = jws.JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)
# RFC 9864 renames EdDSA to Ed25519; tokens that say EdDSA are common and no less safe.
warnings.filterwarnings("ignore", "EdDSA is deprecated", SecurityWarning)


class Verifiers(Protocol):
    """Where public keys come from."""

    def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The key that may verify a token. Raises UnavailableError when that cannot be found out."""
        ...


class BadTokenError(Exception):
    """A token that is not accepted; says why, as a part of a sentence."""


def verified(token: str, keys: Verifiers) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a token whose signature is right; whether the claims hold is not looked at.

    Raises BadTokenError, and UnavailableError without keys.
    """
    if len(token) > MAX_TOKEN_CHARS:
        raise BadTokenError(f"it is longer than {MAX_TOKEN_CHARS} characters")
    try:
        header = jws.extract_compact(token.encode("ascii", "strict"), registry=_REGISTRY).headers()
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS:
            raise BadTokenError(f"its algorithm is none of {', '.join(ALGORITHMS)}")
        if kid is not None and not isinstance(kid, str):
            raise BadTokenError("its key id is no text")
        key = keys.find(kid, algorithm)
        if key is None:
            raise BadTokenError("it is signed by a key that is not published")
        return dict(header), jwt.decode(token, key, registry=_REGISTRY).claims
    except (JoseError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadTokenError(reason_of(error)) from None


def reason_of(error: Exception) -> str:
    """Why a token was refused, as a part of a sentence."""
    if isinstance(error, JoseError):
        return (error.description or error.error.replace("_", " ")).rstrip(".")
    return "it is no JSON Web Token"
