"""Users and their API keys."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
import uuid
from collections.abc import Callable

import redis

from kelpie.errors import ConflictError, InvalidInputError, NotFoundError, StartupError
from kelpie.store import keys
from kelpie.store.codec import fields_of, text
from kelpie.store.connection import translated
from kelpie.store.names import checked
from kelpie.store.records import ADMIN_ID, ADMIN_NAME, ApiKey, Principal, User
from kelpie.store.scripts import Scripts

KEY_PREFIX = "klp_"
MAX_KEY_CHARS = 512
MIN_ADMIN_KEY_CHARS = 32


def wall_ms() -> int:
    """The time of this machine in ms; only shown, never decided by."""
    return time.time_ns() // 1_000_000


class Users:
    """Users and their API keys; of a key only its sha256 is kept."""

    def __init__(self, client: redis.Redis, scripts: Scripts, clock: Callable[[], int] = wall_ms) -> None:
        self._client = client
        self._scripts = scripts
        self._clock = clock

    def create(self, username: str) -> User:
        """A new user. Raises ConflictError when the name is taken, InvalidInputError for an unfit one."""
        checked("username", username)
        return self._create(str(uuid.uuid4()), username)

    def _create(self, user_id: str, username: str) -> User:
        user = User(user_id, username, self._clock(), _new_webhook_secret())
        try:
            made = self._scripts.run(
                "create_user",
                (keys.USER_NAMES, keys.user(user_id)),
                user_id=user_id,
                username=username,
                created=user.created,
                webhook_secret=user.webhook_secret,
            )
        except ConflictError:
            raise ConflictError(f"The username {username!r} is taken.") from None
        return user if made else self.get(user_id)

    def get(self, user_id: str) -> User:
        """A user. Raises NotFoundError."""
        with translated():
            fields = fields_of(self._client.hgetall(keys.user(user_id)))
        if not fields:
            raise NotFoundError(f"There is no user {user_id}.")
        return User(user_id, fields["username"], int(fields["created"]), fields["webhook_secret"])

    def create_key(self, user_id: str, org_name: str, project_name: str) -> str:
        """A new API key, shown this once. Raises NotFoundError for an unknown user."""
        checked("org_name", org_name)
        checked("project_name", project_name)
        key = KEY_PREFIX + secrets.token_urlsafe(32)
        self._add_key(user_id, key, org_name, project_name, origin="request")
        return key

    def _add_key(self, user_id: str, key: str, org_name: str, project_name: str, *, origin: str) -> None:
        digest = digest_of(key)
        try:
            self._scripts.run(
                "create_key",
                (keys.user(user_id), keys.user_keys(user_id), keys.api_key(digest)),
                digest=digest,
                user_id=user_id,
                org_name=org_name,
                project=project_name,
                created=self._clock(),
                origin=origin,
            )
        except NotFoundError:
            raise NotFoundError(f"There is no user {user_id}.") from None

    def authenticate(self, key: str) -> Principal | None:
        """Whom an API key speaks for; None when it is unknown."""
        if not key or len(key) > MAX_KEY_CHARS:
            return None
        with translated():
            fields = fields_of(self._client.hgetall(keys.api_key(digest_of(key))))
        if not fields:
            return None
        return Principal(fields["user_id"], fields["username"], fields["org_name"], fields["project_name"])

    def ensure_admin(self, key: str | None) -> None:
        """Makes the admin if there is none, and lets ``key`` speak for him.

        A key that an earlier start gave him this way stops working; keys made by request stay. Raises
        StartupError for a short key.
        """
        if key is not None and not MIN_ADMIN_KEY_CHARS <= len(key) <= MAX_KEY_CHARS:
            raise StartupError(
                f"The admin's key has {len(key)} characters; it needs "
                f"{MIN_ADMIN_KEY_CHARS} to {MAX_KEY_CHARS}."
            )
        self._create(ADMIN_ID, ADMIN_NAME)
        if key is None:
            return
        # First the new one, so that a crash in between leaves no admin without a key.
        self._add_key(ADMIN_ID, key, ADMIN_NAME, ADMIN_NAME, origin="environment")
        for old in self._keys(ADMIN_ID):
            if old["origin"] == "environment" and old["digest"] != digest_of(key):
                self.revoke(ADMIN_ID, old["digest"])

    def keys(self, user_id: str) -> list[ApiKey]:
        """What is kept of a user's API keys, oldest first."""
        found = [
            ApiKey(key["digest"], user_id, key["org_name"], key["project_name"], int(key["created"]))
            for key in self._keys(user_id)
        ]
        return sorted(found, key=lambda key: (key.created, key.digest))

    def _keys(self, user_id: str) -> list[dict[str, str]]:
        with translated():
            digests = [text(digest) for digest in self._client.smembers(keys.user_keys(user_id))]
            reading = self._client.pipeline(transaction=False)
            for digest in digests:
                reading.hgetall(keys.api_key(digest))
            found = [fields_of(raw) for raw in reading.execute()]
        return [{**fields, "digest": digest} for digest, fields in zip(digests, found, strict=True) if fields]

    def revoke(self, user_id: str, digest: str) -> None:
        """Ends an API key of a user, named by its digest. Raises NotFoundError."""
        with translated():
            if not self._client.sismember(keys.user_keys(user_id), digest):
                raise NotFoundError("There is no such API key.")
            ending = self._client.pipeline(transaction=True)
            ending.delete(keys.api_key(digest))
            ending.srem(keys.user_keys(user_id), digest)
            ending.execute()

    def delete_all(self) -> None:
        """Deletes every user but the admin, and their keys. Their jobs stay."""
        with translated():
            names = fields_of(self._client.hgetall(keys.USER_NAMES))
        for username, user_id in names.items():
            if user_id != ADMIN_ID:
                self._scripts.run(
                    "delete_user",
                    (keys.USER_NAMES, keys.user(user_id), keys.user_keys(user_id)),
                    username=username,
                    key_prefix=keys.API_KEY_PREFIX,
                )


def digest_of(key: str) -> str:
    """What is kept of an API key. Keys are long and random, so a plain sha256 tells nothing."""
    try:
        return hashlib.sha256(key.encode()).hexdigest()
    except UnicodeEncodeError:
        raise InvalidInputError("An API key is not Unicode text.") from None


def _new_webhook_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
