"""``/users``: users and their API keys."""

from __future__ import annotations

from typing import Any

from flask import Blueprint

from kelpie.errors import ConflictError, InvalidInputError
from kelpie.http.auth import admin_only, authenticate
from kelpie.http.context import principal, services
from kelpie.http.models import TokenBody, UserBody
from kelpie.http.openapi import USERS, replies, spec
from kelpie.http.replies import CallerReply, ErrorReply, TokenReply, UserReply
from kelpie.job import iso

Answer = Any  # whatever Flask makes a response of

users = Blueprint("users", __name__, url_prefix="/users")
users.before_request(authenticate)


@users.post("")
@admin_only
@spec.validate(resp=replies(HTTP_201=UserReply), tags=[USERS], operation_id="createUser")
def create(json: UserBody) -> Answer:
    """Make a user (admin)."""
    try:
        user = services().store.users.create(json.username)
    except ConflictError as error:  # old clients know a taken name as an invalid one
        raise InvalidInputError(str(error), errors=(("username", "it is taken"),)) from None
    return {"id": user.id, "username": user.username, "created": iso(user.created)}, 201


@users.post("/<user_id>/token")
@admin_only
@spec.validate(resp=replies(HTTP_201=TokenReply, HTTP_404=ErrorReply), tags=[USERS], operation_id="createKey")
def create_key(user_id: str, json: TokenBody) -> Answer:
    """Make an API key of a user (admin). It is shown this once and stored as a hash."""
    token = services().store.users.create_key(user_id, json.org_name, json.project_name)
    return {"token": token}, 201


@users.get("/me")
@spec.validate(resp=replies(HTTP_200=CallerReply), tags=[USERS], operation_id="getCaller")
def me() -> Answer:
    """The caller, and the secret that verifies the webhooks of his jobs."""
    caller = principal()
    user = services().store.users.get(caller.user_id)
    return {
        "id": user.id,
        "username": user.username,
        "created": iso(user.created),
        "org_name": caller.org_name,
        "project_name": caller.project_name,
        "is_admin": caller.is_admin,
        "webhook_secret": user.webhook_secret,
    }


@users.delete("")
@admin_only
@spec.validate(resp=replies(HTTP_204=None), tags=[USERS], operation_id="deleteUsers")
def delete_all() -> Answer:
    """Delete all users but the admin, and their keys (admin)."""
    services().store.users.delete_all()
    return "", 204
