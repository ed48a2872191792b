"""What clients may send about users and API keys, in the manner of ``models.py``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kelpie.http.models import WHOLE, Body, Name, Query
from kelpie.store import Scope
from kelpie.store.api_keys import MAX_EXPIRY_S


class UserBody(Body):
    """A user to be made."""

    username: Name


class KeyBody(Body):
    """How far an API key reaches."""

    scopes: (
        Annotated[
            list[Scope],
            Field(min_length=1, max_length=8, description="What the key may do; absent: all its user may."),
        ]
        | None
    ) = None
    name: Name | None = None
    expires_in_s: (
        Annotated[int, Field(ge=1, le=MAX_EXPIRY_S, description="Seconds; absent: it never expires."), WHOLE]
        | None
    ) = None


class TokenBody(KeyBody):
    """What an API key is bound to, and how far it reaches."""

    org_name: Name
    project_name: Name


class UsersQuery(Query):
    """Which users are listed."""

    page_size: Annotated[int, Field(ge=1, le=1000)] = 100
    page: Annotated[int, Field(ge=-(2**31), le=1_000_000, description="1, 2, 3 …; less means 1.")] = 1
