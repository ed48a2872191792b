"""How long people wait for the pages: until a browser that has nothing of them paints something.

    python -m tests.bench.pages [--quick]

The goals: first contentful paint in less than a second on loopback, and no page heavier than 120 KiB, packed,
with all that it loads. What the server spends on a page as jobs become many is the dashboard benchmark's.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import redis
from playwright.sync_api import Browser, sync_playwright

from kelpie.embedded.valkey import ValkeyServer
from tests.api import ApiServer
from tests.bench.figures import announce, load
from tests.browser.pages import pages_of
from tests.browser.people import Person, chromium
from tests.browser.scenery import paint

ROUNDS = 7
GOAL_MS = 1000
GOAL_KIB = 120

PAINTED = """new Promise((resolve) => new PerformanceObserver((seen) => {
  const found = seen.getEntriesByName("first-contentful-paint")[0];
  if (found) resolve(found.startTime);
}).observe({type: "paint", buffered: true}))"""

LOADED = 'performance.getEntriesByType("resource").reduce((sum, one) => sum + one.encodedBodySize, 0)'


def main(arguments: Sequence[str]) -> None:
    """Open each page several times, each time in a browser that has never seen it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.pages", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="each page once: does it run?")
    rounds = 1 if parser.parse_args(arguments).quick else ROUNDS
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(ValkeyServer(folder / "valkey"))
        client = stack.enter_context(contextlib.closing(redis.Redis.from_url(server.url)))
        announce(f"pages: first contentful paint in Chromium on loopback, {rounds} times each", client)
        api = stack.enter_context(ApiServer(server.url, folder))
        user = api.new_user()
        pages = {"log-in": "/login"} | pages_of(user, paint(user))
        browser = chromium(stack.enter_context(sync_playwright()))
        stack.callback(browser.close)
        _seen(browser, api.url, "/login", user.key)  # what its own start takes is not the page's
        print(f"{'page':14} {'median ms':>10} {'worst ms':>9} {'KiB packed':>11}")
        for title, path in pages.items():
            seen = [_seen(browser, api.url, path, user.key) for _ in range(rounds)]
            times_ms, kib = [ms for ms, _ in seen], max(weight for _, weight in seen) / 1024
            middle_ms = statistics.median(times_ms)
            print(
                f"{title:14} {middle_ms:10.0f} {max(times_ms):9.0f} {kib:11.1f}"
                + (f"   above the goal of {GOAL_MS} ms" if middle_ms >= GOAL_MS else "")
                + (f"   above the goal of {GOAL_KIB} KiB" if kib >= GOAL_KIB else ""),
                flush=True,
            )
    print(f"   load afterwards {load()}")


def _seen(browser: Browser, url: str, path: str, key: str) -> tuple[float, int]:
    """When a page was painted first, in ms since it was asked for, and its weight in bytes, packed."""
    person = Person(browser, url)
    try:
        if path != "/login":
            # By the context, which shares cookies with the page, but not what the page has loaded.
            person.context.request.post(f"{url}/ui/login", form={"key": key})
        answer = person.page.goto(f"{url}/ui{path}", wait_until="load")
        assert answer is not None
        painted_ms: float = person.page.evaluate(PAINTED)
        parts: int = person.page.evaluate(LOADED)
        return painted_ms, len(gzip.compress(answer.body())) + parts
    finally:
        person.context.close()


if __name__ == "__main__":
    main(sys.argv[1:])
