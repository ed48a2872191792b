"""API keys of the caller, and for the admin the users and theirs."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Response, request
from pydantic import ValidationError
from werkzeug.wrappers import Response as BaseResponse

from kelpie.http.audit import note
from kelpie.http.auth import admin_only, full_key_only
from kelpie.http.context import principal, services
from kelpie.http.errors import invalid
from kelpie.http.user_models import KeyBody, TokenBody, UserBody
from kelpie.store import ADMIN_ID, Scope
from kelpie_web.ui import back, form, page, ui

PAGE_SIZE = 100
DAY_S = 86_400


@ui.get("/keys")
@full_key_only
def keys() -> Response:
    """The keys of the caller."""
    caller = principal()
    return page(
        "keys.html",
        user=None,
        keys=services().store.users.keys(caller.user_id),
        current=caller.key_id,
        scopes=[scope for scope in Scope if scope is not Scope.ADMIN or caller.is_admin],
        names=(caller.org_name, caller.project_name),
    )


@ui.post("/keys")
@full_key_only
def make_key() -> Response:
    """A new key, shown this once."""
    caller = principal()
    try:
        asked = KeyBody.model_validate(_reach(), strict=False)
    except ValidationError as error:
        raise invalid(error) from None
    token, key = services().store.users.make_key(
        caller.user_id,
        caller.org_name,
        caller.project_name,
        scopes=asked.scopes,
        name=asked.name,
        expires_in_s=asked.expires_in_s,
        expires_by=caller.key_expires,
    )
    note("make an API key", key.id)
    return page("secret.html", title="The new API key", secret=token, ends=None)


@ui.post("/keys/<key_id>/revoke")
@full_key_only
def revoke_key(key_id: str) -> BaseResponse:
    """End a key of the caller."""
    services().store.users.revoke_id(principal().user_id, key_id)
    note("revoke an API key", key_id)
    return back("ui.keys", "The key is revoked.")


@ui.get("/users")
@admin_only
def users() -> Response:
    """All users (admin)."""
    number = int(request.args.get("page", "1")) if request.args.get("page", "1").isdecimal() else 1
    number = max(1, min(number, 1_000_000))
    found = services().store.users.page(number, PAGE_SIZE)
    return page("users.html", users=found, number=number, is_full=len(found) == PAGE_SIZE, admin_id=ADMIN_ID)


@ui.post("/users")
@admin_only
def make_user() -> BaseResponse:
    """A new user (admin)."""
    try:
        asked = UserBody.model_validate({"username": form().get("username", "").strip()})
    except ValidationError as error:
        raise invalid(error) from None
    made = services().store.users.create(asked.username)
    note("make a user", f"{made.username} {made.id}")
    return back("ui.user", "The user is there; make a key for him.", user_id=made.id)


@ui.get("/users/<user_id>")
@admin_only
def user(user_id: str) -> Response:
    """A user and his keys (admin)."""
    found = services().store.users.get(user_id)
    return page(
        "keys.html",
        user=found,
        keys=services().store.users.keys(user_id),
        current=principal().key_id,
        scopes=[scope for scope in Scope if scope is not Scope.ADMIN or user_id == ADMIN_ID],
        names=("", ""),
        may_be_deleted=user_id != ADMIN_ID,
    )


@ui.post("/users/<user_id>/keys")
@admin_only
def make_key_of(user_id: str) -> Response:
    """A new key of a user, shown this once (admin)."""
    fields = form()
    names = {name: fields.get(name, "").strip() for name in ("org_name", "project_name")}
    try:
        asked = TokenBody.model_validate(_reach() | names, strict=False)
    except ValidationError as error:
        raise invalid(error) from None
    token, key = services().store.users.make_key(
        user_id,
        asked.org_name,
        asked.project_name,
        scopes=asked.scopes,
        name=asked.name,
        expires_in_s=asked.expires_in_s,
    )
    note("make an API key of a user", f"{key.id} of {user_id}")
    return page("secret.html", title="The new API key", secret=token, ends=None)


@ui.post("/users/<user_id>/keys/<key_id>/revoke")
@admin_only
def revoke_key_of(user_id: str, key_id: str) -> BaseResponse:
    """End a key of a user (admin)."""
    services().store.users.revoke_id(user_id, key_id)
    note("revoke an API key of a user", f"{key_id} of {user_id}")
    return back("ui.user", "The key is revoked.", user_id=user_id)


@ui.post("/users/<user_id>/delete")
@admin_only
def delete_user(user_id: str) -> BaseResponse:
    """Delete a user, his keys and rules, after the page that asks; his jobs stay (admin)."""
    found = services().store.users.get(user_id)
    if form().get("confirmed") != "yes":
        return page("delete_user.html", user=found)
    services().store.delete_user(user_id)
    note("delete a user", f"{found.username} {user_id}")
    return back("ui.users", f"{found.username} is deleted.")


def _reach() -> dict[str, object]:
    """How far the key of the form is to reach."""
    fields: Mapping[str, str] = form()
    asked: dict[str, object] = {}
    if scopes := form().getlist("scope"):
        asked["scopes"] = scopes
    if name := fields.get("name", "").strip():
        asked["name"] = name
    if days := fields.get("days", "").strip():
        asked["expires_in_s"] = int(days) * DAY_S if days.isdecimal() and len(days) < 6 else days
    return asked
