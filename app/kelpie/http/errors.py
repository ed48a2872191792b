"""Every refusal as JSON: which exception has which status, and what its body holds."""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from typing import Any

import structlog
from flask import Flask, Response, g, jsonify, request
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from structlog.contextvars import bind_contextvars, clear_contextvars
from werkzeug.exceptions import HTTPException

from kelpie import errors
from kelpie.errors import InvalidInputError, KelpieError, LeaseLostError, TooFastError, UnavailableError

REQUEST_ID_HEADER = "X-Request-Id"
RETRY_AFTER_S = 1
MAX_FIELD_ERRORS = 100

STATUSES: dict[type[KelpieError], tuple[int, str]] = {
    errors.InvalidInputError: (400, "Invalid Input"),
    errors.UnauthenticatedError: (401, "Unauthorized"),
    errors.ForbiddenError: (403, "Forbidden"),
    errors.NotFoundError: (404, "Not Found"),
    errors.LeaseLostError: (409, "Lease Lost"),
    errors.ConflictError: (409, "Conflict"),
    errors.TooFastError: (429, "Too Many Requests"),
    errors.UnavailableError: (503, "Service Unavailable"),
}
"""Status code and title of each refusal."""

log = structlog.get_logger(__name__)


def register(app: Flask) -> None:
    """Make ``app`` answer every error as JSON, and give every request an id."""
    app.before_request(_name_request)
    app.after_request(_show_request_id)
    app.register_error_handler(KelpieError, _refused)
    app.register_error_handler(HTTPException, _not_routed)
    app.register_error_handler(Exception, _broken)


def invalid(error: ValidationError, *, batch: bool = False) -> InvalidInputError:
    """What pydantic found, as our refusal. In a batch, the first place of a path is the job's index."""
    found = error.errors(include_input=False, include_url=False, include_context=False)
    if found[0]["type"] == "json_invalid":
        return InvalidInputError(f"The body is not JSON: {found[0]['msg'].removeprefix('Invalid JSON: ')}.")
    places = [item["loc"][0] for item in found if item["loc"]] if batch else []
    index = min((place for place in places if isinstance(place, int)), default=None)
    fields = tuple((_path(item), _sentence(item)) for item in found[:MAX_FIELD_ERRORS])
    path, message = fields[0]
    return InvalidInputError(f"{path}: {message}" if path else message, errors=fields, index=index)


def _path(item: ErrorDetails) -> str:
    return ".".join(str(part) for part in item["loc"])


def _sentence(item: ErrorDetails) -> str:
    return item["msg"].removeprefix("Value error, ")


def _name_request() -> None:
    g.request_id = uuid.uuid4().hex
    # Every line that this request causes carries them. Of the last request of this connection nothing stays.
    clear_contextvars()
    bind_contextvars(request_id=g.request_id)
    job_id = (request.view_args or {}).get("job_id")
    if job_id is not None:
        bind_contextvars(job_id=str(job_id)[:64])


def _show_request_id(response: Response) -> Response:
    response.headers[REQUEST_ID_HEADER] = g.get("request_id") or uuid.uuid4().hex
    return response


def _refused(error: KelpieError) -> Response:
    status, title = next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), (500, ""))
    if status == 500:  # a refusal that this API does not know is a defect of this API
        return _broken(error)
    more: dict[str, Any] = {}
    if isinstance(error, InvalidInputError):
        if error.errors:
            more["errors"] = _field_errors(error.errors)
        if error.index is not None:
            more["index"] = error.index
    if isinstance(error, LeaseLostError):
        more["reason"] = error.reason
    response = _reply(status, title, str(error), **more)
    if isinstance(error, TooFastError):
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, UnavailableError):
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
        log.warning("unavailable", path=request.path, error=str(error))
    return response


def _field_errors(found: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"path": path, "message": message} for path, message in found]


def _not_routed(error: HTTPException) -> Response:
    status = error.code or 500
    if status == 404:
        return _reply(404, "Route Not Found", f"There is no {request.path[:200]} here; see /docs.")
    response = _reply(status, error.name, error.description or error.name)
    for name, value in error.get_headers():
        if name.lower() not in {"content-type", "content-length"}:
            response.headers[name] = value
    return response


def _broken(error: Exception) -> Response:
    request_id = g.get("request_id") or uuid.uuid4().hex
    log.error("internal error", request_id=request_id, path=request.path, exc_info=error)
    message = f"Something is wrong in this server; its log names it as {request_id}."
    return _reply(500, "Internal Server Error", message, request_id=request_id)


def _reply(status: int, title: str, message: str, **more: Any) -> Response:
    response = jsonify({"error": title, "message": message, **more})
    response.status_code = status
    return response
