"""Log in through a provider of identities: away to it, and back with what it says."""

from __future__ import annotations

import base64
import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog
from flask import Response, g, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from kelpie.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError, UnavailableError
from kelpie.http.audit import note
from kelpie.http.context import services
from kelpie.store import ADMIN_ID, User
from kelpie.store.users import ORGANIZATION_PREFIX
from kelpie_web.auth import again, inside, is_encrypted, welcome
from kelpie_web.ui import COOKIE as SESSION
from kelpie_web.ui import page, ui

if TYPE_CHECKING:  # it needs the extra [oidc]
    from kelpie.identity.oidc import OpenIdLogin

COOKIE = "kelpie_login"
PATH = "/ui/oidc"
TTL_S = 600
MAX_COOKIE_CHARS = 3800  # browsers keep 4096 bytes, name and all

log = structlog.get_logger(__name__)


@ui.get("/oidc/start")
def oidc_start() -> BaseResponse:
    """To the provider. What this log-in is known by again stays in the browser."""
    login = _login()
    services().limits.before_login()
    onward, attempt = inside(request.args.get("next", "")), login.begin()
    try:
        response = redirect(login.address(attempt), 303)
    except UnavailableError as error:
        return _away(login, onward, error)
    # The session that this log-in replaces: on the way back, from another site, the browser keeps its cookie.
    old = request.cookies.get(SESSION)
    replaced = services().store.sessions.mark(old) if old else ""
    kept = _encoded([*attempt, replaced, onward])
    if len(kept) > MAX_COOKIE_CHARS:
        kept = _encoded([*attempt, replaced, url_for("ui.overview")])
    # Lax, because the way back begins on the provider's pages.
    response.set_cookie(
        COOKIE, kept, max_age=TTL_S, path=PATH, httponly=True, samesite="Lax", secure=is_encrypted()
    )
    return response


@ui.get("/oidc/callback")
def oidc_callback() -> BaseResponse:
    """Back from the provider: a session of the user whom it names, with an API key that ends with it."""
    login = _login()
    services().limits.before_login()
    onward = url_for("ui.overview")
    try:
        *secrets, replaced, onward = _decoded(request.cookies.get(COOKIE, ""))
        name = login.finish(secrets, request.args)
    except UnavailableError as error:
        response: BaseResponse = _away(login, onward, error)
    except ForbiddenError as error:
        response = _refused(onward, error)
    else:
        response = _welcomed(login, name, replaced, onward)
    response.delete_cookie(COOKIE, path=PATH, httponly=True, samesite="Lax", secure=is_encrypted())
    return response


def _welcomed(login: OpenIdLogin, name: str, replaced: str, onward: str) -> BaseResponse:
    """In, if the name is that of a user here, and out of the session that this one replaces."""
    try:
        token = _begin(login, _user(name))
    except ForbiddenError as error:
        return _refused(onward, error)
    session = services().store.sessions.find(token)
    if session is None:
        raise ForbiddenError("The session has ended already; log in again.")
    if replaced:
        services().store.sessions.end_marked(replaced)
    g.principal = session.principal
    note("log in", f"through {login.host}")
    # A page of ours goes on: of a redirect, browsers think that the provider had begun it, and keep back
    # a cookie that no other site can send.
    return welcome(page("welcome.html", onward=onward), token)


def _refused(onward: str, error: ForbiddenError) -> BaseResponse:
    services().limits.after_failed_login()
    return again(onward, str(error))


def _login() -> OpenIdLogin:
    login = services().identities.login
    if login is None:
        raise NotFoundError("There is no such page.")
    return login


def _user(name: str) -> User:
    """The user of that name. Raises ForbiddenError."""
    users = services().store.users
    found = users.named(name)
    if found is None and services().settings.oidc_create_users:
        try:
            found = users.create(name)
        except ConflictError:  # made by another request at the same time
            found = users.named(name)
        except InvalidInputError:
            found = None
    # The admin has a key. Who an organization is, its own service says.
    if found is None or found.id == ADMIN_ID or found.username.startswith(ORGANIZATION_PREFIX):
        raise ForbiddenError(
            f"You are {name} there, and no user of that name may log in so here; ask the admin."
        )
    return found


def _begin(login: OpenIdLogin, user: User) -> str:
    """A session of the user; its secret. Raises ForbiddenError."""
    settings, store = services().settings, services().store
    try:
        key, _ = store.users.make_key(
            user.id,
            settings.oidc_org_name,
            settings.oidc_project_name,
            name=f"log-in through {login.host}"[:128],
            expires_in_s=settings.session_s,
        )
    except (ConflictError, NotFoundError) as error:
        raise ForbiddenError(str(error)) from None
    return store.sessions.begin(key, ttl_s=settings.session_s, for_itself=True)


def _away(login: OpenIdLogin, onward: str, error: UnavailableError) -> Response:
    log.warning("nobody can log in through the provider of identities", issuer=login.issuer, error=str(error))
    response = again(onward, f"{login.host} cannot be asked now. Log in with a key, or try again.")
    response.status_code = 503
    return response


def _encoded(words: list[str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(words).encode()).decode()


def _is_text(word: object) -> bool:
    """Whether it is text that can be sent: JSON can hold halves of characters."""
    return isinstance(word, str) and not any(0xD800 <= ord(char) < 0xE000 for char in word)


def _decoded(cookie: str) -> list[str]:
    """The five words in the cookie. Raises ForbiddenError."""
    with suppress(ValueError, RecursionError):
        words = json.loads(base64.urlsafe_b64decode(cookie[:MAX_COOKIE_CHARS]))
        if isinstance(words, list) and len(words) == 5 and all(_is_text(word) for word in words):
            *secrets, replaced, onward = words
            return [*secrets, replaced if re.fullmatch("[0-9a-f]{64}", replaced) else "", inside(onward)]
    raise ForbiddenError("This log-in was not begun in this browser, or too long ago; begin it again.")
