"""Log in with an API key, and out."""

from __future__ import annotations

from flask import Response, g, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from kelpie.errors import ForbiddenError, InvalidInputError
from kelpie.http.audit import note
from kelpie.http.context import services
from kelpie.store import Scope
from kelpie_web.ui import COOKIE, check_origin, form, page, ui

MAX_NEXT_CHARS = 2000


@ui.get("/login")
def login() -> Response:
    """The form that asks for a key."""
    return _form(inside(request.args.get("next", "")), None)


@ui.post("/login")
def enter() -> BaseResponse:
    """Begin a session, if the key is a user's. Guesses count like those of the API."""
    check_origin()
    parts = services()
    parts.limits.before_login()
    fields = form()
    onward = inside(fields.get("next", ""))
    key = fields.get("key", "").strip()
    try:
        token = parts.store.sessions.begin(key, ttl_s=parts.settings.session_s)
    except (ForbiddenError, InvalidInputError):
        parts.limits.after_failed_login()
        return again(onward, "This key is not known here. It may have been revoked, or have expired.")
    session = parts.store.sessions.find(token)
    if session is None or not session.principal.may(Scope.READ):
        parts.store.sessions.end(token)
        return again(
            onward,
            "This key is for nodes: it can only ask for work. Log in with one that has the scope submit.",
        )
    g.principal = session.principal
    note("log in", "")
    return welcome(redirect(onward, 303), token)


@ui.post("/logout")
def logout() -> BaseResponse:
    """End the session."""
    services().store.sessions.end(g.token)
    response = redirect(url_for("ui.login"), 303)
    response.delete_cookie(COOKIE, path="/ui", httponly=True, samesite="Strict", secure=is_encrypted())
    return response


def welcome(response: BaseResponse, token: str) -> BaseResponse:
    """An answer that gives the browser its session, in place of one that it may have had."""
    parts = services()
    if old := request.cookies.get(COOKIE):
        parts.store.sessions.end(old)
    response.set_cookie(
        COOKIE,
        token,
        max_age=parts.settings.session_s,
        path="/ui",
        httponly=True,
        samesite="Strict",
        secure=is_encrypted(),
    )
    return response


def again(onward: str, problem: str) -> Response:
    """The form once more, and what was wrong."""
    response = _form(onward, problem)
    response.status_code = 403
    return response


def _form(onward: str, problem: str | None) -> Response:
    provider = services().identities.login
    return page("login.html", next=onward, problem=problem, provider=provider.host if provider else None)


def inside(path: str) -> str:
    """Where to go after the log-in: a page of ours, whatever the address said."""
    inside = path == "/ui" or path.startswith(("/ui/", "/ui?"))
    plain = path.isprintable() and "\\" not in path and len(path) <= MAX_NEXT_CHARS
    return (
        path if inside and plain and not path.startswith(("/ui/log", "/ui/oidc")) else url_for("ui.overview")
    )


def is_encrypted() -> bool:
    """Whether the browser speaks TLS, to us or to the proxy that the operator trusts."""
    trusted = services().settings.trusted_proxies > 0
    forwarded = request.headers.get("X-Forwarded-Proto", "").rpartition(",")[2].strip().lower()
    return request.is_secure or (trusted and forwarded == "https")
