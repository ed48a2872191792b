"""The application in this process, on a real store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from kelpie.config import Settings
from kelpie.embedded.valkey import ValkeyServer
from kelpie.http.app import create_app
from kelpie.http.context import services
from kelpie.store import Store
from tests.factories import GROUP, job_body

ME = {"machine_id": "n", "container_group_id": GROUP}
"""What a node says of itself."""


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


@pytest.fixture
def leased(app: Flask, store: Store) -> tuple[Any, dict[str, str], dict[str, Any]]:
    """A client, the headers of the job's owner, and the job that a node of his was given."""
    client = app.test_client()
    user = store.users.create("someone")
    headers = {"X-Kelpie-Key": store.users.create_key(user.id, "org", "project")}
    client.post("/jobs", json=job_body(), headers=headers)
    [job] = client.get("/work", query_string=ME, headers=headers).get_json()
    return client, headers, job
