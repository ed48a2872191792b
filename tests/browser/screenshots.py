"""Pictures of every page, light, dark and on a phone: ``python -m tests.browser.screenshots FOLDER``."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from kelpie.embedded.valkey import ValkeyServer
from tests.api import ApiServer, ApiUser
from tests.browser.pages import pages_of
from tests.browser.people import DESK, PHONE, Person, chromium
from tests.browser.scenery import lease, paint, report

STORY_S = 2.5
"""How long each attempt of the job in the story takes; its leases last two seconds."""

LOOKS: dict[str, dict[str, Any]] = {
    "light": {"theme": "light", "viewport": DESK},
    "dark": {"theme": "dark", "viewport": DESK},
    "phone": {"theme": "light", "viewport": PHONE},
}


def story(user: ApiUser, group: str) -> str:
    """A job that was lost with one node, failed on another and runs on a third."""
    labels = {"sweep": "lattice-64", "seed": "7"}
    arguments = ["relax.py", "--steps", "90000", "--resume", "/ckpt"]
    body = {"command": "python", "arguments": arguments, "container_group_id": group, "labels": labels}
    job = user.submit(body | {"sync": {}, "heartbeat_interval": 1, "priority": 9})
    lease(user, group, "spot-eu-17")
    time.sleep(STORY_S)  # its lease expires
    failing = lease(user, group, "spot-us-03")
    time.sleep(1)
    report(user, failing, "heartbeat")
    report(user, failing, "failed", exit_code=137, reason="killed by SIGKILL", out_of_memory=True)
    running = lease(user, group, "spot-us-21")
    for _ in range(4):
        time.sleep(1)
        report(user, running, "heartbeat")
    return str(job["id"])


def main(folder: Path) -> None:
    """Take them."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as name,
        ValkeyServer(Path(name) / "valkey") as broker,
        ApiServer(broker.url, Path(name)) as server,
        sync_playwright() as playwright,
    ):
        user = server.new_user()
        scenery = paint(user)
        browser = chromium(playwright)
        for look, how in LOOKS.items():
            person = Person(browser, server.url, **how)
            person.go("/login")
            person.page.screenshot(path=folder / f"login-{look}.png")
            person.log_in(user.key)
            told = story(user, scenery.group)
            person.go(f"/jobs/{told}")
            person.page.wait_for_timeout(300)
            person.page.screenshot(path=folder / f"story-{look}.png")
            for title, path in pages_of(user, scenery).items():
                person.go(path)
                person.page.wait_for_timeout(300)
                person.page.screenshot(path=folder / f"{title}-{look}.png", full_page=True)
            person.context.close()
            admin = Person(browser, server.url, **how)
            admin.log_in(server.admin_key)
            for title in ("users", "audit"):
                admin.go(f"/{title}")
                admin.page.screenshot(path=folder / f"admin-{title}-{look}.png", full_page=True)
            admin.context.close()
        browser.close()
    print(f"{len(list(folder.glob('*.png')))} pictures are in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/screenshots"))
