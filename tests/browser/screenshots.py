"""Pictures of every page, light, dark and on a phone: ``python -m tests.browser.screenshots FOLDER``."""

from __future__ import annotations

import contextlib
import math
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from kelpie.embedded.valkey import ValkeyServer
from kelpie.job import Holder, Outcome
from kelpie.store import Store
from kelpie.store.history import Sample
from kelpie.store.keys import QueueKeys
from tests.api import ApiServer, ApiUser
from tests.browser.pages import pages_of
from tests.browser.people import DESK, PHONE, Person, chromium
from tests.browser.scenery import lease, paint, report
from tests.factories import spec

BEAT_S = 0.1
EXPIRY_S = 2.5
"""The leases of the job in the story last two seconds."""

LOOKS: dict[str, dict[str, Any]] = {
    "light": {"theme": "light", "viewport": DESK},
    "dark": {"theme": "dark", "viewport": DESK},
    "phone": {"theme": "light", "viewport": PHONE},
}


def day(store: Store, user: ApiUser, group: str) -> None:
    """A day that is over: jobs that completed, and how many there were of each kind meanwhile."""
    assert user.user_id is not None
    for job in store.submit(
        user.user_id, [spec(container_group_id=group, command="python", arguments=("relax.py",))] * 180
    ):
        lease = store.lease(user.user_id, group, "node-b", job.id)
        assert lease is not None
        holder = Holder("node-b", lease.secret)
        store.finish(lease.job.id, holder, Outcome.COMPLETED)
    now_ms = store.events.now_ms()
    for minute in range(24 * 60, 0, -4):
        past = 1 - minute / (24 * 60)
        wave = math.sin(9 * past) + 0.4 * math.sin(31 * past)
        told = Sample(
            pending=max(0, round(60 * (1 - past) + 14 * wave)),
            running=max(1, round(9 + 4 * wave)),
            leased=max(1, round(8 + 4 * wave)),
            completed=round(180 * past + 2 * wave),
            failed=int(past > 0.6),
            lost_ms=round(past * 3_100_000),
        )
        store.histories.add({user.user_id: told}, at_ms=now_ms - minute * 60_000)
    queue = store.find_queue(user.user_id, group)
    assert queue is not None
    store.redis.hincrby(QueueKeys(queue.number).counters, "lost_ms", 3_100_000)


def work(user: ApiUser, held: dict[str, str], begin: int, end: int, *, beats: int) -> None:
    """Relax a lattice from one step to another, and tell so."""
    for beat in range(beats + 1):
        step = begin + (end - begin) * beat // beats
        told = {
            "energy": -1.5214 + 0.42 * math.exp(-step / 16_000) + 0.01 * math.sin(step / 700),
            "acceptance": 0.44 + 0.06 * math.sin(step / 9000) + 0.03 * math.cos(step / 900),
            "step_ms": 2.1 + 0.2 * math.sin(step / 300) + (0.9 if step % 7 == 3 else 0),
        }
        progress = {"fraction": step / 90_000, "step": step, "total": 90_000, "rate": 0.0004}
        report(user, held, "heartbeat", progress=progress | {"metrics": told})
        time.sleep(BEAT_S)


def story(user: ApiUser, group: str) -> str:
    """A job that was lost with one node, failed on another and runs on a third."""
    labels = {"sweep": "lattice-64", "seed": "7"}
    arguments = ["relax.py", "--steps", "90000", "--resume", "/ckpt"]
    body = {"command": "python", "arguments": arguments, "container_group_id": group, "labels": labels}
    job = user.submit(body | {"sync": {}, "heartbeat_interval": 1, "priority": 9})
    work(user, lease(user, group, "spot-eu-17"), 0, 31_000, beats=30)
    time.sleep(EXPIRY_S)
    failing = lease(user, group, "spot-us-03")
    work(user, failing, 25_000, 36_000, beats=12)
    report(user, failing, "failed", exit_code=137, reason="killed by SIGKILL", out_of_memory=True)
    work(user, lease(user, group, "spot-us-21"), 35_000, 57_000, beats=40)
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
        with contextlib.closing(Store.connect(broker.url)) as store:
            day(store, user, str(uuid.uuid4()))
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
            person.page.screenshot(path=folder / f"story-{look}.png", full_page=True)
            user.ok("DELETE", f"/jobs/{told}?purge=true")  # the next one's nodes should not get it
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
