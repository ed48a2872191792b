"""Nothing of one user is seen or changed by another, on any route that the schema names.

A new route is asked by itself; one whose path has a parameter of a new kind fails here until the user has a
thing of that kind.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest

from kelpie.secrets import MASK
from kelpie.store import Store
from tests.api import ApiServer, ApiUser
from tests.factories import job_body
from tests.system.contract import REPORTS, operations

WORD = "sentinel-3f9c"
"""Stands in everything that the first user has named himself."""

NODE = "node-of-the-first-4d1e"
HUSH = "hush-71c0"
"""A secret of the first user's job, which only he and the node may read, and only from the job itself."""

ABOUT_GROUPS = "/container-groups"
"""Container groups belong to a project, so that colleagues see them too."""

SHOW_THE_WHOLE_JOB = {
    *(("GET", path) for path in ("/jobs/{job_id}", "/jobs/{job_id}/logs", "/work")),
    *(("POST", path) for path in ("/jobs", "/jobs/batch")),
    *(
        ("POST", f"/jobs/{{job_id}}/{change}")
        for change in ("hold", "resume", "requeue", "unban", "prioritize")
    ),
}


@dataclass(frozen=True)
class Things:
    """What the first user has: ids by the names of path parameters, and words that stand for him alone."""

    group: str
    ids: dict[str, str]

    @property
    def words(self) -> set[str]:
        """What nobody else may read."""
        return {WORD, HUSH, NODE, *self.ids.values()}


@pytest.fixture
def owner(api_server: ApiServer) -> ApiUser:
    return api_server.new_user()


@pytest.fixture(params=["colleague", "stranger"])
def somebody(api_server: ApiServer, request: pytest.FixtureRequest) -> ApiUser:
    """Another user: of the owner's organization and project, or of another organization."""
    made = api_server.new_user()
    if request.param == "colleague":
        return made
    names = {"org_name": "elsewhere", "project_name": "project"}
    key = api_server.admin().ok("POST", f"/users/{made.user_id}/token", json=names)["token"]
    return ApiUser(api_server, key, made.user_id)


@pytest.fixture
def things(owner: ApiUser, api_server: ApiServer) -> Iterator[Things]:
    """One of everything."""
    group = str(uuid.uuid4())
    place = {"name": WORD, "organization": "org", "project": "project"}
    api_server.admin().ok("PUT", f"/container-groups/{group}", json=place)
    rule = {"container_group_id": group, "min_replicas": 0, "max_replicas": 1, "idle_threshold_seconds": 0}
    owner.ok("POST", "/scaling-rules", json=rule)
    key = owner.ok("POST", "/users/me/keys", json={"name": WORD})
    body = job_body(
        container_group_id=group,
        arguments=[WORD, f"--password={HUSH}"],
        environment={"A": WORD, "API_TOKEN": HUSH},
        labels={"l": WORD},
        webhook=f"http://127.0.0.1:9/{WORD}?token={HUSH}",
    )
    running, waiting = owner.submit(body), owner.submit(body)
    (leased,) = owner.ok("GET", f"/work?machine_id={NODE}&container_group_id={group}")
    assert leased["id"] == running["id"]
    lines = [{"stream": "stdout", "time": 1, "text": f"{WORD} {HUSH}"}]
    node = {"machine_id": NODE, "container_group_id": group, "lease": leased["lease"]}
    owner.ok("POST", f"/jobs/{leased['id']}/logs", json=node | {"first": 1, "lines": lines})
    assert owner.user_id is not None
    delivery = f"kelpie-of-{uuid.uuid4()}"
    with closing(Store.connect(api_server.redis_url)) as store:
        assert store.deliveries.put(
            delivery,
            user_id=owner.user_id,
            job_id=running["id"],
            event="running",
            url=body["webhook"],
            receiver="127.0.0.1:9",
            body=WORD,
        )
    yield Things(
        group,
        {
            "job_id": running["id"],
            "waiting_job_id": waiting["id"],
            "user_id": owner.user_id,
            "container_group_id": group,
            "group_id": group,
            "rule_id": group,
            "key_id": key["id"],
            "delivery_id": delivery,
        },
    )
    api_server.admin().ok("DELETE", f"/container-groups/{group}")


def place_of(template: str, things: Things) -> str:
    """The path of the route about what the first user has, and the query that some need."""
    path = re.sub(r"\{(\w+)\}", lambda name: things.ids[name[1]], template)
    return path + (f"?machine_id={NODE}&container_group_id={things.group}" if template == "/work" else "")


def body_for(template: str, things: Things) -> Any:
    """A body that every route accepts, for unknown keys are ignored, with what others may have overheard."""
    is_submit = template in {"/jobs", "/jobs/batch"}
    body = job_body(container_group_id=f"other-{uuid.uuid4()}" if is_submit else things.group) | {
        "machine_id": NODE,
        "username": f"name-{uuid.uuid4()}",
        "org_name": "o",
        "project_name": "p",
        "min_replicas": 0,
        "max_replicas": 2,
        "idle_threshold_seconds": 1,
        "priority": 1,
        "nodes": [NODE],
        "lease": "1.of-nobody",
        "first": 1,
        "lines": [{"stream": "stdout", "time": 1, "text": "forged"}],
    }
    return [body] if template == "/jobs/batch" else body


def everything_of(owner: ApiUser, things: Things) -> list[Any]:
    """All that the first user has, without what time changes."""
    jobs = [owner.job(things.ids[name]) for name in ("job_id", "waiting_job_id")]
    keys = owner.ok("GET", "/users/me/keys")["keys"]
    return [
        [{k: v for k, v in job.items() if k != "waiting_for"} for job in jobs],
        [{k: v for k, v in key.items() if k != "last_used"} for key in keys],
        owner.ok("GET", "/users/me"),
        owner.ok("GET", "/scaling-rules"),
        owner.ok("GET", f"/container-groups/{things.group}"),
        owner.ok("GET", f"/webhooks/deliveries/{things.ids['delivery_id']}"),
        owner.ok("GET", f"/jobs/{things.ids['job_id']}/events")["events"],
        owner.ok("GET", f"/jobs/{things.ids['job_id']}/logs")["lines"],
        owner.ok("GET", "/nodes/drained")["nodes"],
    ]


def test_no_route_shows_or_changes_anything_of_another_user(
    owner: ApiUser, somebody: ApiUser, things: Things, request: pytest.FixtureRequest
) -> None:
    is_colleague = request.node.callspec.params["somebody"] == "colleague"
    before = everything_of(owner, things)
    routes = operations(owner)
    for method, template in routes:
        if is_colleague and template.startswith(ABOUT_GROUPS):
            continue
        path = place_of(template, things)
        sent = None if method in {"GET", "DELETE"} else body_for(template, things)
        status, _, answer = somebody.request(method, path, json=sent, headers={"Accept": "application/json"})
        where = (method, template, status, answer)
        assert status < 500, where
        if "{" in template and template != "/jobs/container-groups/{container_group_id}":
            assert status in {403, 404}, where
        repeated = {word for word in things.words if status >= 400 and word in path + json.dumps(sent)}
        assert not {word for word in things.words - repeated if word in repr(answer)}, where
    assert len(routes) > 40
    assert everything_of(owner, things) == before


def test_every_get_of_what_there_is_is_200(owner: ApiUser, api_server: ApiServer, things: Things) -> None:
    admin = api_server.admin()
    for method, template in operations(owner):
        if method == "GET":
            is_for_admins = template in {"/users", "/users/{user_id}/keys", "/metrics"}
            who = admin if is_for_admins else owner
            status, headers, _ = who.request("GET", place_of(template, things))
            assert status == 200, template
            assert is_for_admins or headers["Content-Type"] == "application/json", template


def test_lists_and_searches_of_another_user_are_empty(somebody: ApiUser, things: Things) -> None:
    for query in (
        "",
        f"container_group_id={things.group}",
        "status=running",
        f"label=l={WORD}",
        f"machine_id={NODE}",
        f"q={WORD}",
        f"q={things.ids['job_id']}",
    ):
        assert somebody.ok("GET", f"/jobs?{query}")["jobs"] == [], query
    assert somebody.ok("DELETE", f"/jobs/container-groups/{things.group}") == {"count": 0}
    assert somebody.ok("GET", f"/work?machine_id=n&container_group_id={things.group}") == []


def test_a_secret_is_shown_by_the_job_itself_to_its_owner_and_by_nothing_else(
    owner: ApiUser, api_server: ApiServer, things: Things
) -> None:
    assert HUSH in repr(owner.ok("GET", f"/jobs/{things.ids['job_id']}"))
    ends_the_job = tuple(REPORTS)
    routes = sorted(operations(owner), key=lambda route: route[1].endswith(ends_the_job))
    masked = 0
    for who in (api_server.admin(), owner):
        for method, template in routes:
            if method != "GET" and not template.startswith("/jobs/{job_id}/"):
                continue  # these answer with what the caller has just sent, or with nothing of a job
            if who is owner and (method, template) in SHOW_THE_WHOLE_JOB:
                continue
            sent = body_for(template, things) if method == "POST" else None
            _, _, answer = who.request(method, place_of(template, things), json=sent)
            assert HUSH not in repr(answer), (method, template, answer)
            masked += MASK in repr(answer)
    assert masked >= 5
