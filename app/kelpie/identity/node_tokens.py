"""Signed tokens (JWT) by which a node says which machine it is, and for which organization it works."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError

from kelpie.errors import ForbiddenError
from kelpie.identity.signed import BadTokenError, Verifiers, reason_of, verified

MAX_CLAIM_CHARS = 128


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """What a verified token says."""

    machine_id: str
    organization: str
    workload_id: str | None = None
    workload_name: str | None = None


@dataclass(frozen=True, slots=True)
class ClaimNames:
    """Where a token says what: a claim's name, or a JSON pointer (``/kubernetes.io/pod/uid``) into claims."""

    machine_id: str
    organization: str
    workload_id: str
    workload_name: str


class NodeTokens:
    """Verifies tokens. Nothing of a token is remembered: each one is judged anew, at every request."""

    def __init__(
        self,
        keys: Verifiers,
        names: ClaimNames,
        *,
        leeway_s: int,
        audience: str | None = None,
        issuer: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._names = names
        self._leeway_s = leeway_s
        self._clock = clock
        self._options: dict[str, jwt.ClaimsOption] = {"exp": {"essential": True}}
        if audience is not None:
            self._options["aud"] = {"essential": True, "value": audience}
        if issuer is not None:
            self._options["iss"] = {"essential": True, "value": issuer}

    def verify(self, token: str) -> NodeIdentity:
        """What a token says. Raises ForbiddenError for a bad one, UnavailableError without keys."""
        try:
            _, claims = verified(token, self._keys)
            rules = jwt.JWTClaimsRegistry(
                now=lambda: int(self._clock()), leeway=self._leeway_s, **self._options
            )
            rules.validate(claims)
        except BadTokenError as error:
            raise _bad(str(error)) from None
        except JoseError as error:
            raise _bad(reason_of(error)) from None
        names = self._names
        return NodeIdentity(
            machine_id=_required(claims, names.machine_id),
            organization=_required(claims, names.organization),
            workload_id=_claim(claims, names.workload_id),
            workload_name=_claim(claims, names.workload_name),
        )


def _claim(claims: Mapping[str, Any], name: str) -> str | None:
    """The text in a claim; None when it is absent or empty. Raises ForbiddenError for what no name can be."""
    value: Any = claims
    parts = name[1:].split("/") if name.startswith("/") else [name]
    for part in parts:
        value = value.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(value, dict) else None
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > MAX_CLAIM_CHARS or not value.isprintable():
        raise _bad(f"its claim {name} is no text of up to {MAX_CLAIM_CHARS} printable characters")
    return value


def _required(claims: Mapping[str, Any], name: str) -> str:
    value = _claim(claims, name)
    if value is None:
        raise _bad(f"it has no claim {name}")
    return value


def _bad(why: str) -> ForbiddenError:
    return ForbiddenError(f"The token in Authorization is not accepted: {why}.")
