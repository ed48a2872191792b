"""A Valkey for the walks and the simulated fleet: its time is virtual, and nothing in it must last."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kelpie.embedded.valkey import ValkeyServer
from tests.proof.virtual import Client, make_client


@pytest.fixture(scope="session")
def quick_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A server that syncs nothing to disk."""
    with ValkeyServer(tmp_path_factory.mktemp("quick-valkey"), appendfsync="no") as server:
        yield server


@pytest.fixture
def client(quick_valkey: ValkeyServer) -> Iterator[Client]:
    """The one connection of a virtual world."""
    client = make_client(quick_valkey.url)
    yield client
    client.close()
