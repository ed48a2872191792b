"""API keys: made, listed, ended, and whom they speak for. Of a key only its sha256 is kept."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import redis
from redis.exceptions import NoPermissionError

from kelpie.errors import ConflictError, InvalidInputError, NotFoundError, UnavailableError
from kelpie.store import keys
from kelpie.store.clock import wall_ms
from kelpie.store.codec import fields_of, text
from kelpie.store.connection import translated
from kelpie.store.names import checked
from kelpie.store.records import ADMIN_ID, ApiKey, Principal, Scope, key_id_of
from kelpie.store.scripts import Scripts

KEY_PREFIX = "klp_"
SHOWN_CHARS = 10
"""How much of a key is kept in clear, KEY_PREFIX included: 36 of its 256 random bits."""

MAX_KEY_CHARS = 512
MAX_KEYS = 1000
"""API keys of one user, at most."""

MAX_EXPIRY_S = 10 * 366 * 86_400
NOTE_USE_EVERY_MS = 60_000


class ApiKeys:
    """The API keys of all users.

    Nothing is remembered in the process: a key that was revoked anywhere is refused everywhere at once.
    """

    def __init__(self, client: redis.Redis, scripts: Scripts, clock: Callable[[], int] = wall_ms) -> None:
        self._client = client
        self._scripts = scripts
        self._clock = clock

    def create_key(self, user_id: str, org_name: str, project_name: str) -> str:
        """A new full API key, shown this once. Raises NotFoundError for an unknown user."""
        return self.make_key(user_id, org_name, project_name)[0]

    def make_key(
        self,
        user_id: str,
        org_name: str,
        project_name: str,
        *,
        scopes: Iterable[Scope] | None = None,
        name: str | None = None,
        expires_in_s: int | None = None,
        expires_by: int | None = None,
    ) -> tuple[str, ApiKey]:
        """A new API key, shown this once, and what is kept of it. ``scopes`` None: a full key.

        It expires after ``expires_in_s``, and at ``expires_by`` (ms) at the latest, which is when the key
        expires that asks for it: none outlives the one that made it.

        Raises NotFoundError for an unknown user, ConflictError for one who has too many keys, and
        InvalidInputError for no scopes at all or ones that the user cannot have.
        """
        checked("org_name", org_name)
        checked("project_name", project_name)
        if name is not None:
            checked("name", name)
        if expires_in_s is not None and not 1 <= expires_in_s <= MAX_EXPIRY_S:
            raise _invalid("expires_in_s", f"must be 1…{MAX_EXPIRY_S} seconds, not {expires_in_s}")
        now = self._clock()
        lives_ms = [] if expires_in_s is None else [1000 * expires_in_s]
        lives_ms += [] if expires_by is None else [max(1, expires_by - now)]
        key = KEY_PREFIX + secrets.token_urlsafe(32)
        made = ApiKey(
            digest=digest_of(key),
            user_id=user_id,
            org_name=org_name,
            project_name=project_name,
            created=now,
            prefix=key[:SHOWN_CHARS],
            name=name,
            scopes=_checked_scopes(user_id, scopes),
        )
        return key, self._add_key(made, origin="request", ttl_ms=min(lives_ms, default=0))

    def _add_key(self, key: ApiKey, *, origin: str, ttl_ms: int = 0) -> ApiKey:
        try:
            self._scripts.run(
                "create_key",
                (keys.user(key.user_id), keys.user_keys(key.user_id), keys.api_key(key.digest)),
                digest=key.digest,
                user_id=key.user_id,
                org_name=key.org_name,
                project=key.project_name,
                created=key.created,
                origin=origin,
                prefix=key.prefix or "",
                name=key.name or "",
                scopes=" ".join(sorted(key.scopes or ())),
                ttl_ms=ttl_ms,
                limit=MAX_KEYS if origin == "request" else 0,  # the operator's own key always fits
                key_prefix=keys.API_KEY_PREFIX,
            )
        except NotFoundError:
            raise NotFoundError(f"There is no user {key.user_id[:64]}.") from None
        except ConflictError:
            raise ConflictError(f"The user has {MAX_KEYS} API keys; revoke some first.") from None
        return replace(key, expires=key.created + ttl_ms) if ttl_ms else key

    def authenticate(self, key: str, *, note_use: bool = True) -> Principal | None:
        """Whom an API key speaks for; None when it is unknown, was revoked or has expired.

        It is found by its sha256, so that the time this takes does not tell how much of a guess is right.
        ``note_use``: False for who may only read in Redis; each attempt to write would be logged there.
        """
        if not key or len(key) > MAX_KEY_CHARS:
            return None
        return self.of_digest(digest_of(key), note_use=note_use)

    def of_digest(self, digest: str, *, note_use: bool = True) -> Principal | None:
        """Whom the API key with that digest speaks for; None when it was revoked or has expired."""
        with translated():
            fields = fields_of(self._client.hgetall(keys.api_key(digest)))
        if not fields:
            return None
        if note_use:
            self._note_use(digest, int(fields.get("last_used") or 0))
        kept = _key_of(digest, fields)
        return Principal(
            user_id=kept.user_id,
            username=fields["username"],
            org_name=kept.org_name,
            project_name=kept.project_name,
            scopes=kept.scopes,
            key_id=kept.id,
            key_expires=kept.expires,
        )

    def _note_use(self, digest: str, noted: int) -> None:
        now = self._clock()
        if abs(now - noted) < NOTE_USE_EVERY_MS:
            return
        try:
            self._scripts.run("touch_key", (keys.api_key(digest),), now=now, every_ms=NOTE_USE_EVERY_MS)
        except (UnavailableError, NoPermissionError):  # a note; whoever only reads may authenticate too
            return

    def keys(self, user_id: str) -> list[ApiKey]:
        """What is kept of a user's API keys, oldest first."""
        return [key for key, _ in self._kept(user_id)]

    def _kept(self, user_id: str) -> list[tuple[ApiKey, str]]:
        """The keys of a user, each with its origin, oldest first."""
        with translated():
            digests = [text(digest) for digest in self._client.smembers(keys.user_keys(user_id))]
            reading = self._client.pipeline(transaction=False)
            for digest in digests:
                reading.hgetall(keys.api_key(digest))
            found = [fields_of(raw) for raw in reading.execute()]
        kept = [
            (_key_of(digest, fields), fields["origin"])
            for digest, fields in zip(digests, found, strict=True)
            if fields  # an expired key has left its digest
        ]
        return sorted(kept, key=lambda item: (item[0].created, item[0].digest))

    def revoke(self, user_id: str, digest: str) -> None:
        """Ends an API key of a user, named by its digest. Raises NotFoundError."""
        if not self._scripts.run(
            "revoke_key", (keys.user_keys(user_id), keys.api_key(digest)), digest=digest
        ):
            raise NotFoundError("There is no such API key.")

    def revoke_id(self, user_id: str, key_id: str) -> None:
        """Ends an API key of a user, named by its id. Raises NotFoundError."""
        with translated():
            digests = [text(digest) for digest in self._client.smembers(keys.user_keys(user_id))]
        for digest in digests:
            if hmac.compare_digest(key_id_of(digest).encode(), key_id.encode("utf-8", "replace")):
                return self.revoke(user_id, digest)
        raise NotFoundError(f"There is no API key {key_id[:64]!r}.")


def digest_of(key: str) -> str:
    """What is kept of an API key. Keys are long and random, so a plain sha256 tells nothing."""
    try:
        return hashlib.sha256(key.encode()).hexdigest()
    except UnicodeEncodeError:
        raise InvalidInputError("An API key is not Unicode text.") from None


def _key_of(digest: str, fields: Mapping[str, str]) -> ApiKey:
    scopes = fields.get("scopes")
    return ApiKey(
        digest=digest,
        user_id=fields["user_id"],
        org_name=fields["org_name"],
        project_name=fields["project_name"],
        created=int(fields["created"]),
        prefix=fields.get("prefix"),
        name=fields.get("name"),
        # A scope that a newer server has given and this one does not know allows nothing here.
        scopes=None
        if scopes is None
        else frozenset(Scope(word) for word in scopes.split() if word in set(Scope)),
        expires=_int(fields.get("expires")),
        last_used=_int(fields.get("last_used")),
    )


def _int(number: str | None) -> int | None:
    return None if number is None else int(number)


def _checked_scopes(user_id: str, scopes: Iterable[Scope] | None) -> frozenset[Scope] | None:
    if scopes is None:
        return None
    wanted = frozenset(scopes)
    if not wanted:
        raise _invalid("scopes", "must name one scope or more; leave it out for a full key")
    if Scope.ADMIN in wanted and user_id != ADMIN_ID:
        raise _invalid("scopes", "only a key of the admin can have the scope admin")
    return wanted


def _invalid(field: str, problem: str) -> InvalidInputError:
    return InvalidInputError(f"{field}: {problem}.", errors=((field, problem),))
