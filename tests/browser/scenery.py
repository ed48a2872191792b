"""Something to look at: jobs in every state, nodes, a group with a rule, webhooks, hostile words."""

from __future__ import annotations

import math
import uuid
from contextlib import closing
from dataclasses import dataclass

from kelpie.store import Store
from tests.api import ApiUser
from tests.factories import job_body

STEPS = 8
"""Words of each attempt on its progress, after the first."""

HOSTILE = "<img src=x onerror=alert(1)>\"'&{{7*7}}\x1b[31m"
"""What must show as text wherever it stands."""


@dataclass(frozen=True)
class Scenery:
    """What there is to look at."""

    group: str
    running: str
    failed: str
    completed: str
    pending: str
    hostile: str
    delivery: str


def lease(user: ApiUser, group: str, node: str) -> dict[str, str]:
    """A job of the group, given to the node."""
    [job] = user.ok("GET", f"/work?machine_id={node}&container_group_id={group}")
    return {"id": job["id"], "machine_id": node, "container_group_id": group, "lease": job["lease"]}


def report(user: ApiUser, held: dict[str, str], what: str, **more: object) -> None:
    """What a node says about its job."""
    user.ok("POST", f"/jobs/{held['id']}/{what}", json={**held, **more})


def run(user: ApiUser, held: dict[str, str], begin: int, end: int, *, age_s: float) -> None:
    """What a node tells of the progress of its job, from that long ago on until as long ago again."""
    for part in range(STEPS + 1):
        step = begin + (end - begin) * part // STEPS
        metrics = {"energy": -1.53 + 0.4 * math.exp(-step / 9000), HOSTILE[:38]: math.sin(step / 5000)}
        told = {"step": step, "total": 90_000, "fraction": step / 90_000, "metrics": metrics}
        report(user, held, "heartbeat", progress=told | {"age_s": age_s * (1 - part / STEPS / 2)})


def paint(user: ApiUser) -> Scenery:
    """Make it."""
    group = str(uuid.uuid4())
    place = {"name": "relaxation", "organization": "org", "project": "project"}
    user.server.admin().ok("PUT", f"/container-groups/{group}", json=place)
    user.ok(
        "POST",
        "/scaling-rules",
        json={
            "container_group_id": group,
            "min_replicas": 0,
            "max_replicas": 8,
            "idle_threshold_seconds": 60,
        },
    )
    sync = {
        "before": [{"bucket": "runs", "prefix": "in/", "local_path": "/in", "direction": "download"}],
        "during": [{"bucket": "runs", "prefix": "ckpt/", "local_path": "/ckpt", "direction": "upload"}],
    }

    def submit(**how: object) -> str:
        body = job_body(container_group_id=group, command="python", **how)
        return str(user.submit(body)["id"])

    labels = {"sweep": "lattice-64"}
    completed = submit(arguments=["relax.py", "--steps", "20000"], labels=labels)
    report(user, lease(user, group, "node-a"), "completed")
    failed = submit(arguments=["relax.py", "--steps", "-1"], labels=labels, max_failures=1)
    report(user, lease(user, group, "node-b"), "failed", exit_code=1, reason="exit code 1")
    running = submit(arguments=["relax.py", "--steps", "90000"], labels=labels, sync=sync)
    first = lease(user, group, "node-a")
    run(user, first, 0, 40_000, age_s=7200)
    report(user, first, "failed", exit_code=137, reason="killed by SIGKILL")
    report(user, lease(user, group, "node-b"), "released")
    third = lease(user, group, "node-c")
    run(user, third, 30_000, 36_000, age_s=1800)
    transfers = {
        "before": [{"state": "done", "files": 12, "bytes": 3_400_000_000, "unchanged": 3, "last_age_s": 900}],
        "during": [{"state": "moving", "files": 36, "bytes": 7_600_000, "last_age_s": 20}],
    }
    transfers["during"][0] |= {"waiting_files": 1, "waiting_bytes": 210_000, "failures": 1}
    report(user, third, "heartbeat", transfers=transfers)
    pending = submit(
        arguments=["relax.py", "--seed", "7"], labels=labels, webhook="http://127.0.0.1:9/hook?t=secret"
    )
    hostile = submit(arguments=[HOSTILE], labels={"note": "<b>bold</b>"}, priority=0)
    return Scenery(group, running, failed, completed, pending, hostile, _delivery(user, pending))


def _delivery(user: ApiUser, job_id: str) -> str:
    """A webhook that a receiver has refused once."""
    assert user.user_id is not None
    delivery_id = f"msg_{uuid.uuid4().hex}"
    url = "https://hooks.example.org/kelpie?t=secret"
    with closing(Store.connect(user.server.redis_url)) as store:
        store.deliveries.put(
            delivery_id,
            user_id=user.user_id,
            job_id=job_id,
            event="running",
            url=url,
            receiver="hooks.example.org:443",
            body="{}",
        )
    return delivery_id
