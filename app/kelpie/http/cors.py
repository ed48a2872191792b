"""Cross-origin requests: which web pages may call the API."""

from __future__ import annotations

from collections.abc import Sequence

from flask import Flask, Response, request

METHODS = "GET, POST, PATCH, DELETE"
HEADERS = (
    "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-Kelpie-Key, "
    "Salad-Api-Key, Salad-Organization, Salad-Project"
)
EXPOSED = "Retry-After, X-Request-Id"
PREFLIGHT_MAX_AGE_S = 86_400


def register(app: Flask, origins: Sequence[str]) -> None:
    """Answer preflights, and tell browsers that pages of ``origins`` (``*``: all) may read the answers."""
    allowed = frozenset(origins)

    def preflight() -> Response | None:
        asked = request.headers.get("Access-Control-Request-Method")
        if request.method != "OPTIONS" or asked is None or "Origin" not in request.headers:
            return None
        return Response(
            status=204,
            headers={
                "Access-Control-Allow-Methods": METHODS,
                "Access-Control-Allow-Headers": HEADERS,
                "Access-Control-Max-Age": str(PREFLIGHT_MAX_AGE_S),
            },
        )

    def allow(response: Response) -> Response:
        origin = request.headers.get("Origin")
        if "*" in allowed:
            response.headers["Access-Control-Allow-Origin"] = "*"
        else:
            response.vary.add("Origin")
            if origin in allowed:
                response.headers["Access-Control-Allow-Origin"] = str(origin)
        response.headers["Access-Control-Expose-Headers"] = EXPOSED
        return response

    app.before_request(preflight)
    app.after_request(allow)
