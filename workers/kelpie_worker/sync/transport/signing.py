"""AWS Signature Version 4 in a header, for bodies that are not signed themselves.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html; the body's own guards are its
checksum header, which is signed, and TLS.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

UNSIGNED = "UNSIGNED-PAYLOAD"
_MOMENT = "%Y%m%dT%H%M%SZ"

_BORNE_SKEW_S = 240.0
"""A storage refuses signatures that are more than 15 minutes old or young, some of them more than 5."""


class Credentials(NamedTuple):
    """What signs."""

    access_key: str
    secret_key: str
    token: str | None


class Signer:
    """Signs requests with whatever credentials are valid then; ``credentials`` renews them when need be."""

    def __init__(
        self,
        credentials: Callable[[], Credentials],
        region: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._credentials = credentials
        self._region = region
        self._now = now
        self._behind_s = 0.0  # this machine's clock, as far as the storage was heard of it
        self._key: tuple[str, str, bytes] = ("", "", b"")  # the secret, the day, what signs on it

    def headers(self, method: str, path: str, query: str, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers with those that sign them. ``path`` and ``query`` are escaped and sorted, names are
        lower-case, ``host`` is among them."""
        keys = self._credentials()
        moment = time.strftime(_MOMENT, time.gmtime(self._now() + self._behind_s))
        day = moment[:8]
        signed = {**headers, "x-amz-content-sha256": UNSIGNED, "x-amz-date": moment}
        if keys.token:
            signed["x-amz-security-token"] = keys.token
        ordered = sorted(signed)
        names = ";".join(ordered)
        lines = "".join([f"{name}:{' '.join(signed[name].split())}\n" for name in ordered])
        request = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{UNSIGNED}"
        scope = f"{day}/{self._region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signature = hmac.digest(self._signing_key(keys.secret_key, day), text.encode(), "sha256").hex()
        signed["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={keys.access_key}/{scope}, SignedHeaders={names},"
            f" Signature={signature}"
        )
        return signed

    def heed(self, date: str, signed: str, took_s: float) -> bool:
        """Sign by the storage's clock from now on, if that is far from what was signed by; whether it is.

        ``date`` is that of the answer to a request that was refused, ``signed`` the ``x-amz-date`` of the
        request, ``took_s`` the time between the two: a refusal at the end of a slow upload says nothing of
        clocks. A machine whose clock is wrong, or jumps, has its jobs go on: the storage believes its own
        clock alone.
        """
        try:
            theirs = parsedate_to_datetime(date).timestamp()
        except ValueError:
            return False
        ours = datetime.strptime(signed, _MOMENT).replace(tzinfo=UTC).timestamp() + took_s
        if abs(theirs - ours) <= _BORNE_SKEW_S:
            return False
        self._behind_s = theirs - self._now()
        return True

    def _signing_key(self, secret: str, day: str) -> bytes:
        known_secret, known_day, key = self._key
        if known_secret != secret or known_day != day:
            key = f"AWS4{secret}".encode()
            for word in (day, self._region, "s3", "aws4_request"):
                key = hmac.digest(key, word.encode(), "sha256")
            self._key = (secret, day, key)
        return key
