"""The application in this process, on a real store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask

from kelpie.config import Settings
from kelpie.embedded.valkey import ValkeyServer
from kelpie.http.app import create_app
from kelpie.http.context import services
from kelpie.store import Store


@pytest.fixture
def store(valkey: ValkeyServer) -> Iterator[Store]:
    """An empty store."""
    store = Store.connect(valkey.url)
    yield store
    store.close()


@pytest.fixture
def app(store: Store) -> Iterator[Flask]:
    """The application on it."""
    app = create_app(Settings(cors_origins=("https://a.example",), max_body_bytes=2048), store)
    yield app
    services(app).close()
