"""The scripts, style sheets and icons of the pages, packed where the browser takes them so."""

from __future__ import annotations

from flask import Response, request, send_from_directory
from werkzeug.exceptions import NotFound

from kelpie_web.show import STATIC
from kelpie_web.ui import ui

KEPT_S = 365 * 86_400
TYPES = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".LICENSE": "text/plain",
}


@ui.get("/static/<path:name>")
def asset(name: str) -> Response:
    """A static file. Its address holds a hash of its content, so it is kept for a year."""
    kind = next((kind for ending, kind in TYPES.items() if name.endswith(ending)), None)
    if kind is None:
        raise NotFound
    packed = f"{name}.gz"
    use_packed = "gzip" in request.headers.get("Accept-Encoding", "") and (STATIC / "vendor").is_dir()
    if use_packed and name.startswith("vendor/") and (STATIC / "vendor" / packed[7:]).is_file():
        response = send_from_directory(STATIC, packed, mimetype=kind)
        response.headers["Content-Encoding"] = "gzip"
    else:
        response = send_from_directory(STATIC, name, mimetype=kind)
    response.vary.add("Accept-Encoding")
    response.cache_control.max_age = KEPT_S if "v" in request.args else 3600
    response.cache_control.public = True
    response.cache_control.no_cache = None
    return response
