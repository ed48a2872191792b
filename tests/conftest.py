"""The real parts that tests run against: Valkey, S3, the API. Each starts once per test process."""

from __future__ import annotations

import gc
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from kelpie.embedded.s3 import S3Server
from kelpie.embedded.valkey import ValkeyServer
from tests.api import ApiServer, ApiUser


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """The server behind `valkey`; tests that need a clean one ask for that."""
    with ValkeyServer(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def valkey(valkey_server: ValkeyServer) -> Iterator[ValkeyServer]:
    """A real, empty Valkey: `.url`."""
    with redis.Redis.from_url(valkey_server.url) as client:
        client.flushall()
        yield valkey_server
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A Valkey of this test alone, which it may kill."""
    with ValkeyServer(tmp_path / "valkey") as server:
        yield server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server: `.endpoint`, `.environment`, `.client()`."""
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """The name of a fresh, empty bucket."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    s3.ensure_bucket(name)
    return name


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """The real API under gunicorn on a Valkey of its own, which nobody flushes. Its tests may guess keys."""
    directory = tmp_path_factory.mktemp("api")
    no_limit = {"KELPIE_FAILED_LOGINS_PER_MINUTE": "0"}
    with ValkeyServer(directory / "valkey") as broker, ApiServer(broker.url, directory, **no_limit) as server:
        yield server


@pytest.fixture
def api(api_server: ApiServer) -> ApiUser:
    """The API as a new user sees it: `.url`, `.key`, `.admin_key`, `.request(…)`."""
    return api_server.new_user()


@pytest.fixture
def node_dir(tmp_path: Path) -> Path:
    """Where a test's nodes live."""
    path = tmp_path / "nodes"
    path.mkdir()
    return path


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Says something in the summary of the run, from whichever process the test is in."""
    return lambda line: record_property("told", line)


def pytest_collection_finish() -> None:
    """Thousands of collected tests stay: the garbage collector need not look at them again and again."""
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the tests that passed had to tell: seeds, totals."""
    reports = [report for report in terminalreporter.getreports("passed") if report.when == "call"]
    told = [value for report in reports for name, value in report.user_properties if name == "told"]
    if told:
        terminalreporter.section("told")
        for line in told:
            terminalreporter.write_line(str(line))
