"""What a browser's user does on the pages: log in, go somewhere, look; and what must never happen there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Playwright

CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WAIT_MS = 20_000
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}


def chromium(playwright: Playwright) -> Browser:
    """The browser of this machine."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
    return playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)


class Person:
    """Somebody before a browser of his own. What a console reports against the pages is kept."""

    def __init__(self, browser: Browser, url: str, *, theme: str = "light", viewport: Any = None) -> None:
        self.url = url
        self.context = browser.new_context(
            viewport=viewport or DESK,
            color_scheme="dark" if theme == "dark" else "light",
            reduced_motion="reduce",  # colours that are just changing are no colours of the page
            locale="en-GB",
        )
        self.context.set_default_timeout(WAIT_MS)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))

    def _heard(self, message: Any) -> None:
        # A refusal that a test asks for is no defect of a page.
        if message.type in {"error", "warning"} and "Failed to load resource" not in message.text:
            self.complaints.append(f"{message.type}: {message.text}")

    def go(self, path: str) -> Page:
        """Open a page of the dashboard."""
        self.page.goto(f"{self.url}/ui{path}", wait_until="load")
        return self.page

    def log_in(self, key: str) -> Page:
        """Log in with an API key."""
        self.go("/login")
        self.page.get_by_label("API key").fill(key)
        self.page.get_by_role("button", name="Log in", exact=True).click()
        self.page.get_by_role("heading", name="Overview").wait_for()
        return self.page

    def violations(self, *rules: str) -> list[str]:
        """What axe-core finds wrong with the page that is open; by all of its rules, or by these."""
        found = (
            Axe().run(self.page, options={"runOnly": list(rules)} if rules else None).response["violations"]
        )
        return [
            f"{one['id']}: {node['html'][:160]} ({node['any'][0]['message'][:160] if node['any'] else ''})"
            for one in found
            for node in one["nodes"]
        ]


@contextmanager
def person(browser: Browser, url: str, **how: Any) -> Iterator[Person]:
    """Somebody for a while; fails when a console has anything against the pages."""
    one = Person(browser, url, **how)
    try:
        yield one
        assert one.complaints == []
    finally:
        one.context.close()
