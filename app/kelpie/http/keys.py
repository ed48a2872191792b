"""``/users/me/keys``: the API keys of the caller."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, g

from kelpie.http.auth import full_key_only, identify
from kelpie.http.context import principal, services
from kelpie.http.openapi import USERS, replies, spec
from kelpie.http.replies import ErrorReply, KeyListReply, NewKeyReply
from kelpie.http.user_models import KeyBody
from kelpie.job import iso
from kelpie.store import ApiKey

Answer = Any  # whatever Flask makes a response of

keys = Blueprint("keys", __name__, url_prefix="/users/me/keys")
keys.before_request(identify)


@keys.get("")
@full_key_only
@spec.validate(resp=replies(HTTP_200=KeyListReply), tags=[USERS], operation_id="listKeys")
def listing() -> Answer:
    """What is kept of the caller's API keys, oldest first; never a key itself."""
    return {"keys": [key_wire(key) for key in services().store.users.keys(principal().user_id)]}


@keys.post("")
@full_key_only
@spec.validate(
    resp=replies(HTTP_201=NewKeyReply, HTTP_409=ErrorReply), tags=[USERS], operation_id="createOwnKey"
)
def create(json: KeyBody) -> Answer:
    """Make another API key of the caller, full or narrower. It is shown this once and stored as a hash."""
    caller = principal()
    token, key = services().store.users.make_key(
        caller.user_id,
        caller.org_name,
        caller.project_name,
        scopes=json.scopes,
        name=json.name,
        expires_in_s=json.expires_in_s,
        expires_by=caller.key_expires,
    )
    g.target = key.id
    return {"token": token, **key_wire(key)}, 201


@keys.delete("/<key_id>")
@full_key_only
@spec.validate(resp=replies(HTTP_204=None, HTTP_404=ErrorReply), tags=[USERS], operation_id="revokeKey")
def revoke(key_id: str) -> Answer:
    """End an API key of the caller at once, everywhere."""
    services().store.users.revoke_id(principal().user_id, key_id)
    return "", 204


def key_wire(key: ApiKey) -> dict[str, Any]:
    """What the world may know of an API key."""
    return {
        "id": key.id,
        "prefix": key.prefix,
        "name": key.name,
        "scopes": None if key.scopes is None else sorted(key.scopes),
        "org_name": key.org_name,
        "project_name": key.project_name,
        "created": iso(key.created),
        "expires": iso(key.expires),
        "last_used": iso(key.last_used),
    }
