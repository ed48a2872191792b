"""The client's part about users and their API keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kelpie.client.transport import PAGE_SIZE, Transport, segment
from kelpie.job import from_iso

MAX_USER_PAGES = 1000


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who owns jobs."""

    id: str
    username: str
    wire: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> User:
        """The user that a JSON object of the API describes."""
        return cls(id=wire["id"], username=wire["username"], wire=dict(wire))


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of an API key. ``scopes`` None: a full key, which may do all that its user may."""

    id: str
    prefix: str | None  # how the key begins
    name: str | None
    scopes: tuple[str, ...] | None
    created: int  # ms since 1970 UTC, as every time here
    expires: int | None
    last_used: int | None  # up to a minute late
    wire: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Key:
        """The key that a JSON object of the API describes; the key itself, if that is shown, is left out."""
        scopes = wire.get("scopes")
        return cls(
            id=wire["id"],
            prefix=wire.get("prefix"),
            name=wire.get("name"),
            scopes=None if scopes is None else tuple(scopes),
            created=from_iso(wire["created"]) or 0,
            expires=from_iso(wire.get("expires")),
            last_used=from_iso(wire.get("last_used")),
            wire={name: value for name, value in wire.items() if name != "token"},
        )


class KeyCalls(Transport):
    """Mixed into :class:`kelpie.Client`."""

    def me(self) -> User:
        """Whose key this is."""
        return User.from_wire(self._call("GET", "/users/me"))

    def create_user(self, username: str) -> User:
        """A new user (admin only). InvalidInputError when the name is taken."""
        return User.from_wire(self._call("POST", "/users", body={"username": username}))

    def users(self) -> list[User]:
        """All users by name (admin only)."""
        found: list[User] = []
        for page in range(1, MAX_USER_PAGES + 1):
            part = self._call("GET", "/users", query={"page": page, "page_size": PAGE_SIZE})["users"]
            found += map(User.from_wire, part)
            if len(part) < PAGE_SIZE:
                break
        return found

    def delete_user(self, user_id: str) -> None:
        """Delete a user and his keys; his jobs stay (admin only)."""
        self._call("DELETE", f"/users/{segment(user_id)}", gone_is_done=True)

    def create_key(
        self,
        user_id: str,
        organization: str = "default",
        project: str = "default",
        *,
        scopes: Sequence[str] | None = None,
        name: str | None = None,
        expires_in_s: int | None = None,
    ) -> str:
        """A new API key for a user (admin only). It is shown this once.

        ``scopes``: what it may do, of ``submit``, ``work`` and (for the admin's own keys) ``admin``; None:
        all that its user may.
        """
        body = {"org_name": organization, "project_name": project} | _reach(scopes, name, expires_in_s)
        return str(self._call("POST", f"/users/{segment(user_id)}/token", body=body)["token"])

    def create_own_key(
        self, *, scopes: Sequence[str] | None = None, name: str | None = None, expires_in_s: int | None = None
    ) -> tuple[str, Key]:
        """Another API key of your own, shown this once, and what is known of it. Needs a full key."""
        wire = self._call("POST", "/users/me/keys", body=_reach(scopes, name, expires_in_s))
        return str(wire["token"]), Key.from_wire(wire)

    def keys(self, user_id: str | None = None) -> list[Key]:
        """Your API keys, or those of a user (admin only), oldest first; never a key itself."""
        return [Key.from_wire(wire) for wire in self._call("GET", _keys_path(user_id))["keys"]]

    def revoke_key(self, key_id: str, user_id: str | None = None) -> None:
        """End an API key of yours, or of a user (admin only), at once. NotFoundError when there is none."""
        self._call("DELETE", f"{_keys_path(user_id)}/{segment(key_id)}", gone_is_done=True)


def _keys_path(user_id: str | None) -> str:
    return f"/users/{segment(user_id or 'me')}/keys"


def _reach(scopes: Sequence[str] | None, name: str | None, expires_in_s: int | None) -> dict[str, Any]:
    """How far a new key reaches, without what is left to the API."""
    reach = {
        "scopes": None if scopes is None else list(scopes),
        "name": name,
        "expires_in_s": expires_in_s,
    }
    return {field: value for field, value in reach.items() if value is not None}
