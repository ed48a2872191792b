"""A store and a user for what runs behind the scenes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kelpie.embedded.valkey import ValkeyServer
from kelpie.store import Store, User


@pytest.fixture
def store(valkey: ValkeyServer) -> Iterator[Store]:
    """An empty store on a real server."""
    store = Store.connect(valkey.url)
    yield store
    store.close()


@pytest.fixture
def user(store: Store) -> User:
    """A user of it."""
    return store.users.create("ada")
