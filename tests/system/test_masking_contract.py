"""Who sees the secrets of a job."""

from __future__ import annotations

import json
import uuid
from typing import Any

from kelpie.secrets import MASK
from tests.api import ApiServer, ApiUser
from tests.factories import job_body
from tests.system.contract import BODIES, CHANGES, change, lease, refused

GITHUB_TOKEN = "ghp_16C7e42F292c6912E7710c838347Ae178B4a"


SECRETS = {
    "API_KEY": "swordfish",  # no digits of an id
    "DATABASE": "postgres://user:hunter2@db/x",
    "githubToken": "t-1",
    "EMPTY_KEY": "",
}
SHOWN = {"STEPS": "1000", "TOKENIZERS_PARALLELISM": "true"}


def with_secrets(group: str) -> dict[str, Any]:
    return job_body(
        container_group_id=group,
        command="sim",
        arguments=["--steps", "7", GITHUB_TOKEN],
        environment=SECRETS | SHOWN,
    )


def assert_masked(job: dict[str, Any]) -> None:
    masked = {name: MASK if value else "" for name, value in SECRETS.items()}
    assert job["environment"] == masked | SHOWN
    assert job["arguments"] == ["--steps", "7", MASK]
    assert (job["command"], job["status"]) == ("sim", "pending")
    text = json.dumps(job)
    assert not any(value in text for value in (*SECRETS.values(), GITHUB_TOKEN, "hunter2") if value)


def assert_whole(job: dict[str, Any]) -> None:
    assert job["environment"] == SECRETS | SHOWN
    assert job["arguments"] == ["--steps", "7", GITHUB_TOKEN]


def test_a_job_as_lists_show_it_is_not_queued_again_with_masks_for_secrets(api: ApiUser, group: str) -> None:
    api.submit(with_secrets(group))
    [listed] = api.ok("GET", f"/jobs?container_group_id={group}")["jobs"]
    again = {name: listed[name] for name in ("command", "arguments", "environment", "sync")}
    answer = refused(api.request("POST", "/jobs", json=again | {"container_group_id": group}), 400)
    assert [one["path"] for one in answer["errors"]] == [
        "arguments.2", "environment.API_KEY", "environment.DATABASE", "environment.githubToken"
    ]  # fmt: skip
    assert answer["errors"][0]["message"].endswith(
        f"{MASK} stands for a secret, which lists do not show; GET /jobs/:id shows it to its owner"
    )
    assert api.ok("GET", f"/jobs?container_group_id={group}")["_count"] == 1


def test_secrets_are_masked_in_lists_and_shown_to_the_owner_and_the_node(api: ApiUser, group: str) -> None:
    job = api.submit(with_secrets(group))
    assert_whole(job)
    for query in ("", "page=1", f"q={job['id']}", f"container_group_id={group}&page_size=1"):
        [found] = api.ok("GET", f"/jobs?{query}")["jobs"]
        assert_masked(found)
    assert_whole(api.ok("GET", f"/jobs/{job['id']}"))
    assert_whole(api.job(job["id"]))
    for name in CHANGES:
        assert_whole(change(api, job, name, json=BODIES.get(name)))
    got = lease(api, group)
    assert got is not None
    assert_whole(got)


def test_the_admin_sees_the_jobs_of_others_masked_and_his_own_whole(
    api: ApiUser, admin: ApiUser, group: str
) -> None:
    job = api.submit(with_secrets(group))
    assert_masked(admin.ok("GET", f"/jobs/{job['id']}"))
    assert_masked(admin.job(job["id"]))
    for name in CHANGES:
        assert_masked(change(admin, job, name, json=BODIES.get(name)))
    [found] = admin.ok("GET", f"/jobs?container_group_id={group}")["jobs"]
    assert_masked(found)
    assert_whole(api.ok("GET", f"/jobs/{job['id']}"))
    own = admin.submit(with_secrets(group))
    assert_whole(admin.ok("GET", f"/jobs/{own['id']}"))
    admin.ok("DELETE", f"/jobs/{own['id']}?purge=true")


def test_no_refusal_and_no_log_repeats_a_secret(api: ApiUser, group: str, api_server: ApiServer) -> None:
    secret = f"ghp_{uuid.uuid4().hex}"
    wrong = job_body(container_group_id=group, environment={"TOKEN": secret}, arguments=[secret], priority=-1)
    assert secret not in json.dumps(refused(api.request("POST", "/jobs", json=wrong), 400))
    api.submit(wrong | {"priority": 0})
    assert secret not in api_server.log.read_text(errors="replace")
