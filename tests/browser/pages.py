"""Every page of the dashboard that a user sees."""

from __future__ import annotations

from kelpie.store.ids import queue_number_of
from tests.api import ApiUser
from tests.browser.scenery import Scenery


def pages_of(user: ApiUser, scenery: Scenery) -> dict[str, str]:
    """Titles and addresses below /ui."""
    number = group_number(user, scenery.group)
    return {
        "overview": "",
        "jobs": "/jobs",
        "jobs-none": "/jobs?q=nothing-is-called-so",
        "job": f"/jobs/{scenery.running}",
        "job-failed": f"/jobs/{scenery.failed}",
        "job-log": f"/jobs/{scenery.running}/log",
        "job-hostile": f"/jobs/{scenery.hostile}",
        "job-events": f"/jobs/{scenery.failed}/events",
        "job-delete": f"/jobs/{scenery.pending}/delete",
        "submit": "/submit",
        "submit-json": f"/submit?from={scenery.running}",
        "nodes": "/nodes",
        "node": "/nodes/node-a",
        "groups": "/groups",
        "group": f"/groups/{number}",
        "webhooks": "/webhooks",
        "delivery": f"/webhooks/{scenery.delivery}",
        "keys": "/keys",
        "audit": "/audit",
        "api": "/api",
        "nowhere": "/nowhere",
    }


def group_number(user: ApiUser, group: str) -> int:
    """The number of the group's page: that of its queue, which the ids of its jobs carry."""
    jobs = user.ok("GET", f"/jobs?container_group_id={group}")["jobs"]
    number = queue_number_of(jobs[0]["id"])
    assert number is not None
    return number
