"""``/users``: users, and what the admin does with their API keys. Everybody's own keys are in ``keys.py``."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flask import Blueprint, g

from kelpie.errors import ConflictError, InvalidInputError
from kelpie.http.auth import admin_only, identify
from kelpie.http.context import principal, services
from kelpie.http.keys import key_wire
from kelpie.http.openapi import USERS, replies, spec
from kelpie.http.replies import CallerReply, ErrorReply, KeyListReply, TokenReply, UserPageReply, UserReply
from kelpie.http.user_models import TokenBody, UserBody, UsersQuery
from kelpie.job import iso
from kelpie.store import Scope, User

Answer = Any  # whatever Flask makes a response of

users = Blueprint("users", __name__, url_prefix="/users")
users.before_request(identify)


@users.post("")
@admin_only
@spec.validate(resp=replies(HTTP_201=UserReply), tags=[USERS], operation_id="createUser")
def create(json: UserBody) -> Answer:
    """Make a user (admin)."""
    try:
        user = services().store.users.create(json.username)
    except ConflictError as error:  # old clients know a taken name as an invalid one
        raise InvalidInputError(str(error), errors=(("username", "it is taken"),)) from None
    g.target = f"{user.username} {user.id}"
    return _wire(user), 201


@users.get("")
@admin_only
@spec.validate(resp=replies(HTTP_200=UserPageReply), tags=[USERS], operation_id="listUsers")
def listing(query: UsersQuery) -> Answer:
    """One page of all users by name (admin)."""
    page = services().store.users.page(max(query.page, 1), query.page_size)
    return {"_count": len(page), "users": [_wire(user) for user in page]}


@users.post("/<user_id>/token")
@admin_only
@spec.validate(
    resp=replies(HTTP_201=TokenReply, HTTP_404=ErrorReply, HTTP_409=ErrorReply),
    tags=[USERS],
    operation_id="createKey",
)
def create_key(user_id: str, json: TokenBody) -> Answer:
    """Make an API key of a user (admin). It is shown this once and stored as a hash."""
    token, _ = services().store.users.make_key(
        user_id,
        json.org_name,
        json.project_name,
        scopes=json.scopes,
        name=json.name,
        expires_in_s=json.expires_in_s,
    )
    return {"token": token}, 201


@users.get("/<user_id>/keys")
@admin_only
@spec.validate(
    resp=replies(HTTP_200=KeyListReply, HTTP_404=ErrorReply), tags=[USERS], operation_id="listKeysOfUser"
)
def keys_of(user_id: str) -> Answer:
    """What is kept of a user's API keys (admin)."""
    services().store.users.get(user_id)  # no keys and no user are not the same
    return {"keys": [key_wire(key) for key in services().store.users.keys(user_id)]}


@users.delete("/<user_id>/keys/<key_id>")
@admin_only
@spec.validate(resp=replies(HTTP_204=None, HTTP_404=ErrorReply), tags=[USERS], operation_id="revokeKeyOfUser")
def revoke_key_of(user_id: str, key_id: str) -> Answer:
    """End an API key of a user at once, everywhere (admin)."""
    services().store.users.revoke_id(user_id, key_id)
    return "", 204


@users.get("/me")
@spec.validate(resp=replies(HTTP_200=CallerReply), tags=[USERS], operation_id="getCaller")
def me() -> Answer:
    """The caller, and the secret that verifies the webhooks of his jobs, which only users get to see."""
    caller = principal()
    user = services().store.users.get(caller.user_id)
    return {
        **_wire(user),
        "org_name": caller.org_name,
        "project_name": caller.project_name,
        "is_admin": caller.is_admin,
        "scopes": None if caller.scopes is None else sorted(caller.scopes),
        "key_id": caller.key_id,
        "machine_id": caller.machine_id,
        "webhook_secret": user.webhook_secret if caller.may(Scope.SUBMIT) else None,
    }


@users.delete("/<uuid:user_id>")  # so that /users/me does not seem to know DELETE
@admin_only
@spec.validate(
    resp=replies(HTTP_204=None, HTTP_404=ErrorReply, HTTP_409=ErrorReply),
    tags=[USERS],
    operation_id="deleteUser",
)
def delete(user_id: UUID) -> Answer:
    """Delete a user, his keys and his scaling rules; his jobs stay (admin)."""
    services().store.delete_user(str(user_id))
    return "", 204


@users.delete("")
@admin_only
@spec.validate(resp=replies(HTTP_204=None), tags=[USERS], operation_id="deleteUsers")
def delete_all() -> Answer:
    """Delete all users but the admin, their keys and their scaling rules; their jobs stay (admin)."""
    services().store.delete_users()
    return "", 204


def _wire(user: User) -> dict[str, Any]:
    return {"id": user.id, "username": user.username, "created": iso(user.created)}
