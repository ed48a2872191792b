"""One Chromium and one server for all tests of pages; each test is a user of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.api import ApiServer, ApiUser
from tests.browser.people import WAIT_MS, Person, chromium, person
from tests.system.fleet import Fleet


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A real Chromium."""
    expect.set_options(timeout=WAIT_MS)  # a machine that does much at once is slow, and not wrong
    with sync_playwright() as playwright:
        browser = chromium(playwright)
        yield browser
        browser.close()


@pytest.fixture
def visitor(browser: Browser, api_server: ApiServer) -> Iterator[Person]:
    """Somebody who is not logged in."""
    with person(browser, api_server.url) as one:
        yield one


@pytest.fixture
def user(visitor: Person, api: ApiUser) -> Person:
    """Somebody who is logged in with the key of `api`."""
    visitor.log_in(api.key)
    return visitor


@pytest.fixture
def fleet(api: ApiUser, tmp_path: Path) -> Iterator[Fleet]:
    """Real nodes of that user."""
    fleet = Fleet(api, tmp_path, f"group-{uuid.uuid4().hex[:8]}", storage={})
    yield fleet
    fleet.close()
