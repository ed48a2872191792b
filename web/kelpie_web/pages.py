"""The pages: everything they load comes from this server, and nothing in them runs inline."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from flask import Blueprint, Response, abort, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as BaseResponse

import kelpie

STATIC_MAX_AGE_S = 86_400

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Swagger UI sets style attributes on what it draws.
DOCS_POLICY = POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")

SWAGGER_ASSETS = {
    "swagger-ui.js": ("swagger_bundle.js", "text/javascript"),
    "swagger-ui.css": ("swagger_style.css", "text/css"),
}
"""What /docs loads: files of the offapi package, which carries Swagger UI, and their types."""

pages = Blueprint(
    "pages", __name__, template_folder="templates", static_folder="static", static_url_path="/static"
)


@pages.get("/")
def landing() -> BaseResponse:
    """What this is, and the first commands to try; a browser goes to the dashboard."""
    if "text/html" in request.accept_mimetypes.values():
        return redirect(url_for("ui.overview"))
    url = request.url_root.rstrip("/")
    return _page(render_template("landing.html", version=kelpie.__version__, url=url), POLICY)


@pages.get("/docs")
def docs() -> Response:
    """The API reference, to read and to try; needs no network beyond this server."""
    return _page(render_template("docs.html"), DOCS_POLICY)


@pages.get("/docs/<name>")
def docs_asset(name: str) -> Response:
    """A script or style sheet of the API reference."""
    if name not in SWAGGER_ASSETS:
        abort(404)
    file, kind = SWAGGER_ASSETS[name]
    response = Response(_offapi(file), mimetype=kind)
    response.cache_control.max_age = STATIC_MAX_AGE_S
    response.add_etag()
    response.make_conditional(request.environ)
    return response


@pages.after_request
def harden(response: Response) -> Response:
    """Headers of everything that a browser gets from here."""
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["X-Frame-Options"] = "DENY"
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    response.headers["Permissions-Policy"] = "camera=(), geolocation=(), microphone=()"
    return response


def _page(html: str, policy: str) -> Response:
    headers: dict[str, Any] = {"Content-Security-Policy": policy}
    return Response(html, mimetype="text/html", headers=headers)


@cache
def _offapi(file: str) -> bytes:
    return (resources.files("offapi") / file).read_bytes()
