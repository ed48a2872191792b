"""Sessions of browsers: who has shown an API key once is known by a cookie until it ends.

Of the cookie only its sha256 is kept, beside that of the API key: a key that is revoked or expires ends its
sessions with it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import redis

from kelpie.errors import ForbiddenError, NotFoundError
from kelpie.store import keys
from kelpie.store.api_keys import digest_of
from kelpie.store.clock import wall_ms
from kelpie.store.codec import fields_of
from kelpie.store.connection import translated
from kelpie.store.records import Principal
from kelpie.store.users import Users

MAX_TOKEN_CHARS = 128
MAX_NOTICE_CHARS = 500


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that somebody has logged in with."""

    principal: Principal
    expires: int  # ms since 1970 UTC
    notice: str | None = None  # what the next page says once


class Sessions:
    """Begins, finds and ends sessions."""

    def __init__(self, client: redis.Redis, users: Users, clock: Callable[[], int] = wall_ms) -> None:
        self._client = client
        self._users = users
        self._clock = clock

    def begin(self, key: str, *, ttl_s: int, for_itself: bool = False) -> str:
        """A new session of whom that API key speaks for; its secret. Raises ForbiddenError.

        ``for_itself``: the key was made for this session, and ends with it.
        """
        principal = self._users.authenticate(key)
        if principal is None:
            raise ForbiddenError("This API key is not known here.")
        token = secrets.token_urlsafe(32)
        name = keys.session(digest_of(token))
        fields: dict[Any, Any] = {"key": digest_of(key), "expires": self._clock() + 1000 * ttl_s}
        if for_itself:
            fields["own"] = 1
        with translated():
            writing = self._client.pipeline(transaction=True)
            writing.hset(name, mapping=fields)
            writing.pexpire(name, 1000 * ttl_s)
            writing.execute()
        return token

    def find(self, token: str) -> Session | None:
        """The session with that secret; None when there is none, or none any more."""
        if not token or len(token) > MAX_TOKEN_CHARS or not token.isascii():
            return None
        with translated():
            fields = fields_of(self._client.hgetall(keys.session(digest_of(token))))
        if "key" not in fields:
            return None
        principal = self._users.of_digest(fields["key"])
        if principal is None:  # the key was revoked, or has expired
            return None
        if "own" in fields:  # a key that its user makes meanwhile may outlive it: he has not shown a key
            principal = replace(principal, key_expires=None)
        return Session(principal, int(fields["expires"]), fields.get("notice"))

    def tell(self, token: str, notice: str) -> None:
        """Keep a sentence for the next page of a session."""
        name = keys.session(digest_of(token))
        with translated():
            # A session that has just ended must not come back as a key without an end.
            if self._client.exists(name):
                self._client.hset(name, "notice", notice[:MAX_NOTICE_CHARS])
                if self._client.ttl(name) < 0:
                    self._client.delete(name)

    def told(self, token: str) -> None:
        """The sentence was shown."""
        with translated():
            self._client.hdel(keys.session(digest_of(token)), "notice")

    @staticmethod
    def mark(token: str) -> str:
        """What a session is known by to who may end it and nothing else, for :meth:`end_marked`."""
        return digest_of(token)

    def end(self, token: str) -> None:
        """End a session; harmless when there is none."""
        self.end_marked(self.mark(token))

    def end_marked(self, mark: str) -> None:
        """The same by its mark."""
        name = keys.session(mark)
        with translated():
            fields = fields_of(self._client.hgetall(name))
            self._client.delete(name)
        if "own" in fields and (principal := self._users.of_digest(fields["key"], note_use=False)):
            with suppress(NotFoundError):
                self._users.revoke(principal.user_id, fields["key"])
