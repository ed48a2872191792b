"""Who is asking, and what the credentials allow: the hooks that run before everything else of a request."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from flask import current_app, g, request

from kelpie.errors import ForbiddenError, UnauthenticatedError, UnavailableError
from kelpie.http.context import principal, require, require_admin
from kelpie.http.credentials import principal_of
from kelpie.store import Scope

P = ParamSpec("P")
R = TypeVar("R")

RECHECK_AFTER_S = 4.0
"""How long a request may act on credentials that were good: what was revoked ends within five seconds."""

_ADMIN_ONLY = "kelpie_admin_only"


def identify() -> None:
    """Note whom the request speaks for, before anything else of it is read; any credentials do.

    Raises UnauthenticatedError without credentials, ForbiddenError for bad ones, InvalidInputError for
    incomplete ones.
    """
    if request.method != "OPTIONS":
        g.principal = principal_of(request.headers)
        g.identified_s = time.monotonic()


def is_still_good() -> bool:
    """Whether the credentials of a request that has waited still speak for the same caller."""
    if time.monotonic() - g.identified_s < RECHECK_AFTER_S:
        return True
    before = principal()
    try:
        identify()
    except (ForbiddenError, UnauthenticatedError):
        return False
    except UnavailableError:  # nobody can tell now, and nobody has been refused
        return True
    return principal() == before


def authenticate() -> None:
    """For what users do: identify the caller, whose credentials must have the scope ``submit``.

    ``read`` is enough to look at something. Where only the admin is let in (:func:`admin_only`), the scope
    ``admin`` instead.
    """
    identify()
    if request.method != "OPTIONS":
        view = current_app.view_functions.get(request.endpoint or "")
        own = Scope.READ if request.method in {"GET", "HEAD"} else Scope.SUBMIT
        require(Scope.ADMIN if getattr(view, _ADMIN_ONLY, False) else own)


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
