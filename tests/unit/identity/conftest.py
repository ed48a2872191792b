"""Services that a test controls."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.identity import AuthService, Service, Signer, service


@pytest.fixture
def web() -> Iterator[Service]:
    """A service that answers what the test tells it to."""
    with service() as state:
        yield state


@pytest.fixture
def auth(web: Service) -> AuthService:
    """An auth service that knows one key of the organization acme."""
    return AuthService(web, {"good": "acme"})


@pytest.fixture(scope="session")
def signer() -> Signer:
    """Who signs tokens; its keys are the same for all tests, which change nothing of it."""
    made = Signer("rsa-1")
    made.add("ec-1", "P-256")
    made.add("ec-2", "P-384")
    made.add("ed-1", "OKP")
    return made
