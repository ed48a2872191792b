"""Users, queues and fleets of real nodes for the system tests."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kelpie.embedded.s3 import S3Server
from kelpie.embedded.valkey import ValkeyServer
from tests.api import ApiServer, ApiUser
from tests.system.fleet import Fleet
from tests.system.world import World, start_world


def make_fleet(api: ApiUser, node_dir: Path, s3: S3Server, **how: Any) -> Fleet:
    """A fleet on a queue of its own."""
    return Fleet(api, node_dir, f"group-{uuid.uuid4().hex[:8]}", storage=s3.environment, **how)


@pytest.fixture
def group() -> str:
    """A queue that no other test uses."""
    return f"group-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def other(api_server: ApiServer) -> ApiUser:
    """Another user."""
    return api_server.new_user()


@pytest.fixture
def admin(api_server: ApiServer) -> ApiUser:
    """The admin."""
    return api_server.admin()


@pytest.fixture
def fleet(api: ApiUser, node_dir: Path, s3: S3Server) -> Iterator[Fleet]:
    """Nodes that lease over HTTP."""
    fleet = make_fleet(api, node_dir, s3)
    yield fleet
    fleet.close()


@pytest.fixture(params=["http", "redis"])
def any_fleet(
    request: pytest.FixtureRequest, api: ApiUser, api_server: ApiServer, node_dir: Path, s3: S3Server
) -> Iterator[Fleet]:
    """Nodes that lease over HTTP, and once more nodes that lease straight from Redis."""
    api_url = api_server.redis_url if request.param == "redis" else None
    fleet = make_fleet(api, node_dir, s3, api_url=api_url)
    yield fleet
    fleet.close()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """An API that tests of credentials share, on a Valkey of its own."""
    directory = tmp_path_factory.mktemp("credentials")
    with ValkeyServer(directory / "valkey") as broker:
        yield from start_world(broker.url, directory)


@pytest.fixture
def own_world(valkey: ValkeyServer, tmp_path: Path) -> Iterator[World]:
    """An API of one test alone, which remembers answers for no time at all while it gets new ones."""
    yield from start_world(valkey.url, tmp_path, KELPIE_AUTH_CACHE_S="0", KELPIE_AUTH_TIMEOUT_S="0.3")
