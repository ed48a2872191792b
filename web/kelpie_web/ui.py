"""What all pages of the dashboard share: who may see them, how they are rendered, how they refuse.

The pages act through the same methods of the store as the API, as the user whose API key began the session.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from typing import Any, cast
from urllib.parse import urlsplit

import gevent
import structlog
from flask import Blueprint, Response, g, redirect, render_template, request, url_for
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import HTTPException, RequestTimeout
from werkzeug.wrappers import Response as BaseResponse

import kelpie
from kelpie.errors import (
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    KelpieError,
    NotFoundError,
    TooFastError,
    UnauthenticatedError,
    UnavailableError,
)
from kelpie.http.context import principal, require, services
from kelpie.job import iso
from kelpie.providers.base import ProviderError
from kelpie.store import Scope, Session
from kelpie.store.clock import wall_ms
from kelpie_web import show
from kelpie_web.pages import POLICY, harden

COOKIE = "kelpie_session"
UI_POLICY = POLICY.replace("form-action 'none'", "form-action 'self'")
PUBLIC = frozenset({"ui.login", "ui.enter", "ui.asset", "ui.oidc_start", "ui.oidc_callback"})
"""What is served without a session."""

STATUSES = (
    (InvalidInputError, 400, "That is not right"),
    (UnauthenticatedError, 401, "Please log in"),
    (ForbiddenError, 403, "Not allowed"),
    (NotFoundError, 404, "Not found"),
    (ConflictError, 409, "Not possible now"),
    (TooFastError, 429, "Too fast"),
    (ProviderError, 503, "The provider does not answer"),
    (UnavailableError, 503, "Redis is away"),
)
"""Status and title of each refusal."""

log = structlog.get_logger(__name__)

ui = Blueprint("ui", __name__, url_prefix="/ui", template_folder="templates")
show.register(ui)


@ui.before_request
def guard() -> BaseResponse | None:
    """Let in who has a session; of what changes something, also that it comes from our own form."""
    if request.endpoint in PUBLIC:
        return None
    token = request.cookies.get(COOKIE, "")
    found = services().store.sessions.find(token)
    if found is None:
        if request.method == "GET" and not is_partial():
            return redirect(url_for("ui.login", next=request.full_path.rstrip("?")))
        raise UnauthenticatedError("Your session has ended; log in again.")
    g.session, g.token, g.principal = found, token, found.principal
    require(Scope.READ)
    if request.method not in {"GET", "HEAD", "OPTIONS"}:
        check_origin()
        if not hmac.compare_digest(form().get("csrf", "").encode(), csrf().encode()):
            raise ForbiddenError("This form is not one of your session; open the page again and repeat it.")
        if request.endpoint != "ui.logout":
            require(Scope.SUBMIT)
    return None


@ui.after_request
def _harden(response: Response) -> Response:
    response.headers.setdefault("Content-Security-Policy", UI_POLICY)
    response = harden(response)
    # With no-referrer browsers call the origin of our own forms null, which tells them from nobody's.
    response.headers["Referrer-Policy"] = "same-origin"
    return response


@ui.errorhandler(KelpieError)
def _refused(error: KelpieError) -> Response:
    status, title = next(
        ((code, name) for kind, code, name in STATUSES if isinstance(error, kind)),
        (500, ""),
    )
    if status == 500:  # a refusal that the pages do not know is a defect
        raise error
    response = _error(status, title, str(error))
    if isinstance(error, TooFastError):
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return response


@ui.errorhandler(HTTPException)
def _not_served(error: HTTPException) -> Response:
    status = error.code or 500
    text = "There is no such page." if status == 404 else (error.description or error.name)
    return _error(status, error.name, text)


@ui.errorhandler(Exception)
def _broken(error: Exception) -> Response:
    log.error("internal error", request_id=g.get("request_id"), path=request.path, exc_info=error)
    text = f"Something is wrong in this server; its log names it as {g.get('request_id')}."
    return _error(500, "Internal error", text)


def _error(status: int, title: str, text: str) -> Response:
    response = page("error.html", title=title, text=text, status=status)
    response.status_code = status
    return response


@ui.get("/<path:_rest>")
def nowhere(_rest: str) -> Response:
    """No other page."""
    raise NotFoundError("There is no such page.")


def page(template: str, **values: Any) -> Response:
    """A page, rendered for the current caller."""
    session = cast("Session | None", g.get("session"))
    notice = None
    if session is not None and session.notice and not is_partial():
        notice = session.notice
        services().store.sessions.told(g.token)
    html = render_template(
        template,
        **values,
        caller=session.principal if session else None,
        csrf=csrf() if session else "",
        may_change=session is not None and session.principal.may(Scope.SUBMIT),
        notice=notice,
        version=kelpie.__version__,
        now=iso(wall_ms()),
        here=request.full_path.rstrip("?"),
    )
    return Response(html, mimetype="text/html")


def back(endpoint: str, notice: str, **values: Any) -> BaseResponse:
    """To another page after something was done, which says what."""
    services().store.sessions.tell(g.token, notice)
    return redirect(url_for(endpoint, **values), 303)


def is_partial() -> bool:
    """Whether a script asks, for a part of the page that is open."""
    return "HX-Request" in request.headers or "text/event-stream" in request.accept_mimetypes.values()


def csrf() -> str:
    """What a form of this session shows; it follows from the secret that the cookie has and others lack."""
    return hashlib.sha256(f"csrf {g.token}".encode()).hexdigest()


def check_origin() -> None:
    """Raises ForbiddenError when a browser says that another site sends this."""
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.host:
        raise ForbiddenError("This form was sent by another site.")


def form() -> MultiDict[str, str]:
    """The fields of the form, unless they come too slowly: each that is being read holds a place."""
    with gevent.Timeout(services().settings.request_timeout_s, RequestTimeout("The form came too slowly.")):
        return request.form


def owner() -> str | None:
    """The user whose things the caller may see; None for the admin, who sees all."""
    caller = principal()
    return None if caller.is_admin else caller.user_id


def query(**changes: Any) -> dict[str, Any]:
    """The query of this page with some of it changed; None takes it out."""
    kept = {name: request.args.getlist(name) for name in request.args}
    return {name: value for name, value in (kept | changes).items() if value is not None}
