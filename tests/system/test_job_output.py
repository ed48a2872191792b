"""What a command said, from its node over the API to its owner, and to nobody else."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.api import ApiUser
from tests.factories import job_body

SECRET = "hunter2-hunter2"


@pytest.fixture
def group() -> str:
    return f"group-{uuid.uuid4().hex[:8]}"


def leased(api: ApiUser, group: str, **overrides: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A job on node-1, and what that node shows."""
    api.submit(job_body(container_group_id=group, **overrides))
    (job,) = api.ok("GET", f"/work?machine_id=node-1&container_group_id={group}")
    return job, {"machine_id": "node-1", "container_group_id": group, "lease": job["lease"]}


def test_the_owner_sees_how_his_command_failed_and_the_admin_sees_no_secret_of_it(
    api: ApiUser, group: str
) -> None:
    job, node = leased(api, group, environment={"DB_PASSWORD": SECRET})
    tail = f"connecting with {SECRET}\nAuthorization: Bearer abcdefgh\n\x1b[2Jdied"
    end = {"exit_code": 137, "signal": 9, "out_of_memory": True, "stderr_tail": tail}
    api.ok("POST", f"/jobs/{job['id']}/failed", json=node | end | {"reason": f"out of {SECRET}"})
    (attempt,) = api.job(job["id"])["attempts"]
    assert {name: attempt[name] for name in end} == end
    seen = api.server.admin().job(job["id"])["attempts"][0]
    assert seen["stderr_tail"] == "connecting with [masked]\n[masked]\n\x1b[2Jdied"
    assert seen["reason"] == "out of [masked]"


@pytest.mark.parametrize(
    "wrong", [{"signal": 0}, {"signal": "9"}, {"out_of_memory": 1}, {"stderr_tail": "x" * 8193}]
)
def test_a_wrong_end_of_a_command_is_400_and_counts_nothing(
    api: ApiUser, group: str, wrong: dict[str, Any]
) -> None:
    job, node = leased(api, group)
    assert api.request("POST", f"/jobs/{job['id']}/failed", json=node | wrong)[0] == 400
    assert api.job(job["id"])["num_failures"] == 0
