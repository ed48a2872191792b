"""The application in this process on a real store, and people with keys who have logged in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from kelpie.config import Settings
from kelpie.embedded.valkey import ValkeyServer
from kelpie.http.app import create_app
from kelpie.http.context import services
from kelpie.store import Scope, Store

ADMIN_KEY = "k" * 40


@pytest.fixture
def store(valkey: ValkeyServer) -> Iterator[Store]:
    """A store with an admin."""
    store = Store.connect(valkey.url)
    store.users.ensure_admin(ADMIN_KEY)
    yield store
    store.close()


@pytest.fixture
def app(store: Store) -> Iterator[Flask]:
    """The application on it."""
    app = create_app(Settings(failed_logins_per_minute=5, trusted_proxies=1), store)
    yield app
    services(app).close()


class Browser:
    """Somebody's browser: it keeps cookies and finds the token of forms."""

    def __init__(self, client: FlaskClient, user_id: str) -> None:
        self.client = client
        self.user_id = user_id

    @property
    def csrf(self) -> str:
        """What forms of this session show."""
        found = re.search(r'name="csrf" value="(\w+)"', self.client.get("/ui/jobs").text)
        assert found is not None
        return found[1]

    def post(self, path: str, **fields: object) -> TestResponse:
        """Send a form of ours."""
        return self.client.post(path, data={"csrf": self.csrf, **fields})


LogIn = Callable[..., Browser]


@pytest.fixture
def log_in(app: Flask, store: Store) -> LogIn:
    """A new user, logged in with a key of these scopes."""

    def log_in(name: str = "ada", *scopes: Scope) -> Browser:
        user = store.users.create(name)
        key, _ = store.users.make_key(user.id, "org", "project", scopes=scopes or None)
        client = app.test_client()
        assert client.post("/ui/login", data={"key": key}).status_code == 303
        return Browser(client, user.id)

    return log_in


@pytest.fixture
def admin(app: Flask) -> Browser:
    """The admin, logged in."""
    client = app.test_client()
    assert client.post("/ui/login", data={"key": ADMIN_KEY}).status_code == 303
    return Browser(client, "00000000-0000-0000-0000-000000000000")
