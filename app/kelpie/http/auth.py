"""Who is asking, and what the credentials allow: the hooks that run before everything else of a request."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from flask import current_app, g, request

from kelpie.errors import ForbiddenError
from kelpie.http.context import principal, require, require_admin
from kelpie.http.credentials import principal_of
from kelpie.store import Scope

P = ParamSpec("P")
R = TypeVar("R")

_ADMIN_ONLY = "kelpie_admin_only"


def identify() -> None:
    """Note whom the request speaks for, before anything else of it is read; any credentials do.

    Raises UnauthenticatedError without credentials, ForbiddenError for bad ones, InvalidInputError for
    incomplete ones.
    """
    if request.method != "OPTIONS":
        g.principal = principal_of(request.headers)


def authenticate() -> None:
    """For what users do: identify the caller, whose credentials must have the scope ``submit``.

    Where only the admin is let in (:func:`admin_only`), the scope ``admin`` instead.
    """
    identify()
    if request.method != "OPTIONS":
        view = current_app.view_functions.get(request.endpoint or "")
        require(Scope.ADMIN if getattr(view, _ADMIN_ONLY, False) else Scope.SUBMIT)


def authenticate_worker() -> None:
    """For what nodes do: identify the caller, whose credentials must have the scope ``work``."""
    identify()
    if request.method != "OPTIONS":
        require(Scope.WORK)


def admin_only(view: Callable[P, R]) -> Callable[P, R]:
    """A view that only the admin may call; refused before the body is looked at."""

    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        require_admin()
        return view(*args, **kwargs)

    setattr(guarded, _ADMIN_ONLY, True)
    return guarded


def full_key_only(view: Callable[P, R]) -> Callable[P, R]:
    """A view that only a full API key may call; refused before the body is looked at."""

    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        if not principal().may_manage_keys:
            raise ForbiddenError(
                "Keys are managed with a full API key in X-Kelpie-Key, one without scopes; an organization's "
                "own keys are managed where it gets them."
            )
        return view(*args, **kwargs)

    return guarded
