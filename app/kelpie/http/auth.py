"""Who is asking: API keys in ``X-Kelpie-Key``."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from flask import g, request

from kelpie.errors import ForbiddenError, UnauthenticatedError
from kelpie.http.context import require_admin, services

KEY_HEADER = "X-Kelpie-Key"
MAX_KEY_CHARS = 512

P = ParamSpec("P")
R = TypeVar("R")


def authenticate() -> None:
    """Note whom the request speaks for, before anything else of it is read.

    Raises UnauthenticatedError without a key, ForbiddenError for one that nobody has.
    """
    if request.method == "OPTIONS":
        return
    key = request.headers.get(KEY_HEADER, "")
    if not key:
        raise UnauthenticatedError(f"Show an API key in the header {KEY_HEADER}.")
    caller = services().store.users.authenticate(key) if len(key) <= MAX_KEY_CHARS else None
    if caller is None:
        raise ForbiddenError(f"The API key in {KEY_HEADER} is not known here.")
    g.principal = caller


def admin_only(view: Callable[P, R]) -> Callable[P, R]:
    """A view that only the admin may call; refused before the body is looked at."""

    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        require_admin()
        return view(*args, **kwargs)

    return guarded
