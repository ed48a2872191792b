"""The secrets that sign a user's webhooks: one, and for a day after a rotation two."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable

import redis

from kelpie.errors import NotFoundError
from kelpie.store import keys
from kelpie.store.codec import fields_of
from kelpie.store.connection import translated
from kelpie.store.scripts import Scripts

OVERLAP_MS = 24 * 3600 * 1000
"""How long the old secret still signs beside the new one."""


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class WebhookSecrets:
    """The secrets that sign webhooks, in the form of Standard Webhooks: whsec_ and base64."""

    def __init__(self, client: redis.Redis, scripts: Scripts, clock: Callable[[], int] = _wall_ms) -> None:
        self._client = client
        self._scripts = scripts
        self._clock = clock

    def current(self, user_id: str) -> tuple[str, ...]:
        """What signs now, the newest first. Raises NotFoundError for a user who is gone."""
        with translated():
            fields = fields_of(self._client.hgetall(keys.user(user_id)))
        if "webhook_secret" not in fields:
            raise NotFoundError(f"There is no user {user_id}.")
        old = fields.get("old_webhook_secret")
        if old is None or int(fields["old_webhook_secret_until"]) <= self._clock():
            return (fields["webhook_secret"],)
        return fields["webhook_secret"], old

    def rotate(self, user_id: str) -> tuple[str, int]:
        """A new secret, and when the one until now ends (ms since 1970). Raises NotFoundError.

        An old one that a rotation before left ends at once.
        """
        secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        try:
            ends = self._scripts.run(
                "rotate_webhook_secret", (keys.user(user_id),), secret=secret, overlap_ms=OVERLAP_MS
            )
        except NotFoundError:
            raise NotFoundError(f"There is no user {user_id}.") from None
        return secret, int(ends)
