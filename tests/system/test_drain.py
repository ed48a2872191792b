"""A node is emptied from the server: its job goes on elsewhere, and nothing is counted."""

from __future__ import annotations

import uuid

from kelpie.embedded.s3 import S3Server
from tests.api import ApiUser
from tests.factories import job_body
from tests.system.fleet import Fleet, outcomes
from tests.system.test_rules import COUNT_TO, counting, read
from tests.waiting import wait_until


def test_a_drained_node_hands_its_job_over_with_its_last_checkpoint(
    fleet: Fleet, s3: S3Server, bucket: str
) -> None:
    first = fleet.node()
    job = fleet.submit(COUNT_TO.format(steps=80), sync=counting(bucket))
    wait_until(lambda: read(s3, bucket, "ck/count"), "a checkpoint is stored")
    second = fleet.node()
    fleet.api.ok("POST", "/nodes/drain", json={"machine_id": first.name})
    done = fleet.wait(job, "completed")
    assert outcomes(done) == ["released", "completed"]
    assert done["num_failures"] == 0
    assert [attempt["machine_id"] for attempt in done["attempts"]] == [first.name, second.name]
    assert first.process.poll() is None  # it stays, idle
    (drained,) = fleet.api.ok("GET", "/nodes/drained")["nodes"]
    assert (drained["machine_id"], drained["container_group_id"]) == (first.name, fleet.group)
    assert second.stop() == 0
    later = fleet.submit("true")
    assert fleet.api.ok("GET", f"/work?machine_id={first.name}&container_group_id={fleet.group}") == []
    assert fleet.job(later)["status"] == "pending"
    undone = fleet.api.ok("POST", "/nodes/resume", json={"machine_id": first.name})
    assert undone == {"container_group_ids": [fleet.group]}
    assert fleet.wait(later, "completed")["machine_id"] == first.name


def test_a_node_is_drained_and_resumed_by_name(api: ApiUser) -> None:
    group = f"group-{uuid.uuid4().hex[:8]}"
    api.submit(job_body(container_group_id=group))
    (job,) = api.ok("GET", f"/work?machine_id=node/1&container_group_id={group}")
    node = {"machine_id": "node/1"}
    status, _, answer = api.request("POST", "/nodes/drain", json=node)
    assert status == 200
    (drained,) = answer["nodes"]
    assert (drained["machine_id"], drained["container_group_id"]) == ("node/1", group)
    report = node | {"container_group_id": group, "lease": job["lease"]}
    assert api.ok("POST", f"/jobs/{job['id']}/heartbeat", json=report)["status"] == "running"
    for groups in ([group], []):
        status, _, answer = api.request("POST", "/nodes/resume", json=node)
        assert (status, answer) == (200, {"container_group_ids": groups})
    assert api.ok("GET", "/nodes/drained") == {"nodes": []}


def test_an_unknown_node_is_404(api: ApiUser) -> None:
    assert api.request("POST", "/nodes/drain", json={"machine_id": "nobody"})[0] == 404


def test_a_node_that_came_before_the_first_job_of_its_queue_can_be_drained(api: ApiUser) -> None:
    group = f"group-{uuid.uuid4().hex[:8]}"
    assert api.ok("GET", f"/work?machine_id=early&container_group_id={group}&wait=0") == []
    (drained,) = api.ok("POST", "/nodes/drain", json={"machine_id": "early"})["nodes"]
    assert drained["container_group_id"] == group
    api.submit(job_body(container_group_id=group))
    assert api.ok("GET", f"/work?machine_id=early&container_group_id={group}&wait=0") == []
