"""Nothing of one user is seen or changed by another, on any route that the schema names."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import Any

import pytest

from tests.api import ApiServer, ApiUser
from tests.factories import job_body

SECRET_WORD = "sentinel-3f9c"
"""Stands in everything of the first user; the second must never read it."""

NOBODYS = ("/healthz", "/readyz", "/openapi.json", "/docs", "/container-groups")
"""Routes about nobody in particular; container groups belong to a project, not to a user."""


@dataclass(frozen=True)
class Things:
    """What the first user has, by the names of the path parameters."""

    group: str
    ids: dict[str, str]


@pytest.fixture
def owner(api_server: ApiServer) -> ApiUser:
    return api_server.new_user()


@pytest.fixture
def stranger(api_server: ApiServer) -> ApiUser:
    return api_server.new_user()


@pytest.fixture
def things(owner: ApiUser, api_server: ApiServer) -> Things:
    group = str(uuid.uuid4())
    place = {"name": group, "organization": "org", "project": "project"}
    api_server.admin().ok("PUT", f"/container-groups/{group}", json=place)
    rule = {"container_group_id": group, "min_replicas": 0, "max_replicas": 1, "idle_threshold_seconds": 0}
    owner.ok("POST", "/scaling-rules", json=rule)
    key = owner.ok("POST", "/users/me/keys", json={"name": SECRET_WORD})
    body = job_body(
        container_group_id=group,
        arguments=[SECRET_WORD],
        environment={"A": SECRET_WORD},
        labels={"l": SECRET_WORD},
        webhook=f"http://127.0.0.1:9/{SECRET_WORD}",
    )
    running, waiting = owner.submit(body), owner.submit(body)
    (leased,) = owner.ok("GET", f"/work?machine_id={SECRET_WORD}&container_group_id={group}")
    assert leased["id"] == running["id"]
    lines = [{"stream": "stdout", "time": 1, "text": SECRET_WORD}]
    node = {"machine_id": SECRET_WORD, "container_group_id": group, "lease": leased["lease"]}
    owner.ok("POST", f"/jobs/{leased['id']}/logs", json=node | {"first": 1, "lines": lines})
    assert owner.user_id is not None
    ids = {"job_id": running["id"], "waiting_job_id": waiting["id"], "user_id": owner.user_id}
    return Things(group, ids | {"container_group_id": group, "rule_id": group, "key_id": key["id"]})


def operations(api: ApiUser) -> list[tuple[str, str]]:
    """Every method and path template of the schema."""
    paths = api.ok("GET", "/openapi.json")["paths"]
    return [
        (method.upper(), path)
        for path, item in paths.items()
        for method in item
        if not path.startswith(NOBODYS)
    ]


def body_for(path: str, things: Things) -> Any:
    """A body that every route accepts: unknown keys are ignored."""
    body = job_body(container_group_id=f"other-{uuid.uuid4()}") | {
        "machine_id": SECRET_WORD,
        "username": f"name-{uuid.uuid4()}",
        "org_name": "o",
        "project_name": "p",
        "min_replicas": 0,
        "max_replicas": 2,
        "idle_threshold_seconds": 1,
        "lease": "1.of-nobody",
        "first": 1,
        "lines": [{"stream": "stdout", "time": 1, "text": "forged"}],
    }
    if "/{job_id}/" in path:
        body["container_group_id"] = things.group
    return [body] if path.endswith("/batch") else body


def everything_of(owner: ApiUser, things: Things) -> list[Any]:
    jobs = [owner.job(things.ids[name]) for name in ("job_id", "waiting_job_id")]
    unchanging = [{k: v for k, v in job.items() if k != "waiting_for"} for job in jobs]
    log = owner.ok("GET", f"/jobs/{things.ids['job_id']}/logs")["lines"]
    return [unchanging, log, owner.ok("GET", "/scaling-rules"), owner.ok("GET", "/users/me/keys")["keys"]]


def test_no_route_shows_or_changes_anything_of_another_user(
    owner: ApiUser, stranger: ApiUser, things: Things
) -> None:
    before = everything_of(owner, things)
    asked = 0
    for method, template in operations(owner):
        path = re.sub(r"\{(\w+)\}", lambda name: things.ids.get(name[1], things.ids["job_id"]), template)
        query = f"?machine_id={SECRET_WORD}&container_group_id={things.group}" if template == "/work" else ""
        json = None if method in {"GET", "DELETE"} else body_for(template, things)
        status, _, answer = stranger.request(
            method, path + query, json=json, headers={"Accept": "application/json"}
        )
        asked += 1
        where = (method, template, status, answer)
        assert status < 500, where
        if "{" in template and "{container_group_id}" not in template:
            assert status in {403, 404}, where
        if status >= 400 or method == "GET":
            assert SECRET_WORD not in repr(answer).replace(query, ""), where
        assert things.ids["job_id"] not in repr(answer) or status == 404, where
    assert asked >= 20
    assert everything_of(owner, things) == before


def test_lists_and_searches_of_another_user_are_empty(stranger: ApiUser, things: Things) -> None:
    for query in (
        "",
        f"container_group_id={things.group}",
        "status=running",
        f"label=l={SECRET_WORD}",
        f"machine_id={SECRET_WORD}",
        f"q={SECRET_WORD}",
        f"q={things.ids['job_id']}",
    ):
        assert stranger.ok("GET", f"/jobs?{query}")["jobs"] == [], query
    assert stranger.ok("DELETE", f"/jobs/container-groups/{things.group}") == {"count": 0}
    assert stranger.ok("GET", f"/work?machine_id=n&container_group_id={things.group}") == []
