"""Users: who owns jobs. Their API keys are in the module beside this one."""

from __future__ import annotations

import base64
import hmac
import secrets
import uuid
from collections.abc import Mapping

from kelpie.errors import ConflictError, InvalidInputError, NotFoundError, StartupError
from kelpie.store import keys
from kelpie.store.api_keys import MAX_KEY_CHARS, ApiKeys, digest_of
from kelpie.store.codec import fields_of, text
from kelpie.store.connection import translated
from kelpie.store.names import checked
from kelpie.store.records import ADMIN_ID, ADMIN_NAME, ApiKey, User

MIN_ADMIN_KEY_CHARS = 32
ORGANIZATION_PREFIX = "organization:"
"""What the name of a user begins with who stands for an organization; nobody else's does."""


class Users(ApiKeys):
    """Users and their API keys."""

    def create(self, username: str) -> User:
        """A new user. Raises ConflictError when the name is taken, InvalidInputError for an unfit one."""
        checked("username", username)
        if username.strip().casefold().startswith(ORGANIZATION_PREFIX):
            raise InvalidInputError(
                f"The username {username!r} is one of an organization; no other user may be called "
                f"{ORGANIZATION_PREFIX}…",
                errors=(("username", f"must not begin with {ORGANIZATION_PREFIX}"),),
            )
        return self._create(str(uuid.uuid4()), username)

    def _create(self, user_id: str, username: str) -> User:
        user = User(user_id, username, self._clock(), new_webhook_secret())
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
            raise NotFoundError(f"There is no user {user_id[:64]}.")
        return _user_of(user_id, fields)

    def named(self, username: str) -> User | None:
        """The user of that name; None when there is none."""
        with translated():
            user_id = self._client.hget(keys.USER_NAMES, username)
        try:
            return None if user_id is None else self.get(text(user_id))
        except NotFoundError:  # deleted meanwhile
            return None

    def page(self, page: int = 1, page_size: int = 100) -> list[User]:
        """One page (from 1) of all users by name."""
        with translated():
            names = fields_of(self._client.hgetall(keys.USER_NAMES))
            first = (page - 1) * page_size
            ids = [names[name] for name in sorted(names)[first : first + page_size]]
            reading = self._client.pipeline(transaction=False)
            for user_id in ids:
                reading.hgetall(keys.user(user_id))
            found = [fields_of(raw) for raw in reading.execute()]
        # Without fields: deleted since his name was read.
        return [_user_of(user_id, fields) for user_id, fields in zip(ids, found, strict=True) if fields]

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
        # First the new one, so that a crash in between leaves no admin without a key. Nothing of it is kept
        # in clear: it is the operator's choice, and may be less random than ours are.
        digest = digest_of(key)
        made = ApiKey(digest, ADMIN_ID, ADMIN_NAME, ADMIN_NAME, self._clock())
        self._add_key(made, origin="environment")
        for old, origin in self._kept(ADMIN_ID):
            if origin == "environment" and not hmac.compare_digest(old.digest, digest):
                self.revoke(ADMIN_ID, old.digest)

    def delete(self, user_id: str) -> None:
        """Deletes a user and his keys; his jobs stay.

        Raises NotFoundError, and ConflictError for the admin.
        """
        if user_id == ADMIN_ID:
            raise ConflictError("The admin cannot be deleted.")
        with translated():
            username = self._client.hget(keys.user(user_id), "username")
        if username is None:
            raise NotFoundError(f"There is no user {user_id[:64]}.")
        self._delete(user_id, text(username))

    def delete_all(self) -> None:
        """Deletes every user but the admin, and their keys. Their jobs stay."""
        with translated():
            names = fields_of(self._client.hgetall(keys.USER_NAMES))
        for username, user_id in names.items():
            if user_id != ADMIN_ID:
                self._delete(user_id, username)

    def _delete(self, user_id: str, username: str) -> None:
        self._scripts.run(
            "delete_user",
            (
                keys.USER_NAMES,
                keys.user(user_id),
                keys.user_keys(user_id),
                keys.ORGANIZATIONS,
                keys.USERS_EPOCH,
            ),
            username=username,
            key_prefix=keys.API_KEY_PREFIX,
        )


def _user_of(user_id: str, fields: Mapping[str, str]) -> User:
    return User(user_id, fields["username"], int(fields["created"]), fields["webhook_secret"])


def new_webhook_secret() -> str:
    """A secret in the form of Standard Webhooks."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
