from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from flask import Flask, g
from werkzeug.test import TestResponse

from kelpie.config import Settings
from kelpie.errors import KelpieError
from kelpie.http import replies
from kelpie.http.app import create_app
from kelpie.http.auth import authenticate
from kelpie.http.context import require_admin, scope, services
from kelpie.http.errors import STATUSES
from kelpie.store import ADMIN_ID, Store
from tests.factories import job_body
from tests.unit.providers.clouds import SaladCloud, served

NOBODY_LISTENS = "redis://127.0.0.1:1/0"


@pytest.fixture
def key(store: Store) -> str:
    """The API key of a user."""
    return store.users.create_key(store.users.create("ada").id, "org", "project")


@pytest.fixture
def orphan() -> Iterator[Flask]:
    """An application whose Redis is away."""
    app = create_app(Settings(redis_url=NOBODY_LISTENS))
    yield app
    services(app).close()


def refused(response: TestResponse, status: int) -> dict[str, Any]:
    assert response.status_code == status
    assert response.content_type == "application/json"
    body = json.loads(response.text)
    assert isinstance(body, dict)
    replies.ErrorReply.model_validate(body)
    return body


def test_every_refusal_that_kelpie_knows_has_a_status() -> None:
    def kinds(parent: type[KelpieError]) -> Iterator[type[KelpieError]]:
        for kind in parent.__subclasses__():
            yield kind
            yield from kinds(kind)

    ends_a_process_before_it_serves = {"StartupError"}
    client_side = {kind for kind in kinds(KelpieError) if not kind.__module__.startswith("kelpie.errors")}
    known = set(kinds(KelpieError)) - client_side
    assert {kind.__name__ for kind in known - set(STATUSES)} == ends_a_process_before_it_serves


def test_a_defect_is_500_with_an_id_that_the_log_has_too(app: Flask, key: str, monkeypatch: Any) -> None:
    def broken(*_args: Any, **_how: Any) -> None:
        raise RuntimeError("the secret of the kitchen")

    monkeypatch.setattr(services(app).store, "page", broken)
    with structlog.testing.capture_logs() as logged:
        response = app.test_client().get("/jobs", headers={"X-Kelpie-Key": key})
    body = refused(response, 500)
    assert body["error"] == "Internal Server Error"
    assert "kitchen" not in response.text
    [event] = [event for event in logged if event["event"] == "internal error"]
    assert event["request_id"] == body["request_id"] == response.headers["X-Request-Id"]


PAGES = {"/", "/docs", "/docs/<name>", "/openapi.json", "/static/<path:filename>"}
"""For browsers and for everybody; they tell of nobody."""


def test_every_route_is_described_so_that_tests_of_all_routes_know_it(app: Flask) -> None:
    described = app.test_client().get("/openapi.json").get_json()["paths"]
    known = {(method.upper(), path) for path, item in described.items() for method in item}
    # The dashboard is no API: tests/unit/web asks every route of it.
    rules = [
        rule
        for rule in app.url_map.iter_rules()
        if rule.rule not in PAGES and not rule.rule.startswith("/ui")
    ]
    methods = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in rules
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert methods == known


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/jobs"),
        ("POST", "/jobs"),
        ("GET", "/work?machine_id=n&container_group_id=g"),
        ("GET", "/readyz"),
    ],
)
def test_without_redis_503_says_when_to_try_again(orphan: Flask, method: str, path: str) -> None:
    response = orphan.test_client().open(
        path, method=method, headers={"X-Kelpie-Key": "k" * 40}, json=job_body()
    )
    assert refused(response, 503)["error"] == "Service Unavailable"
    assert int(response.headers["Retry-After"]) >= 1


def test_the_process_is_alive_without_redis(orphan: Flask) -> None:
    assert orphan.test_client().get("/healthz").status_code == 200


def test_a_body_beyond_the_limit_is_413_before_it_is_read(app: Flask, key: str) -> None:
    headers = {"X-Kelpie-Key": key}
    refused(app.test_client().post("/jobs", data=b"x" * 2049, headers=headers), 413)
    refused(app.test_client().post("/jobs", data=b"x" * 2048, headers=headers), 400)


def test_a_key_speaks_for_its_user_and_sees_his_jobs_only(app: Flask, store: Store, key: str) -> None:
    with app.test_request_context("/jobs", headers={"X-Kelpie-Key": key}):
        authenticate()
        assert g.principal.username == "ada"
        assert scope() == g.principal.user_id
        with pytest.raises(KelpieError, match="Only the admin"):
            require_admin()


def test_the_admins_key_sees_the_jobs_of_all(app: Flask, store: Store) -> None:
    store.users.ensure_admin("k" * 32)
    with app.test_request_context("/jobs", headers={"X-Kelpie-Key": "k" * 32}):
        authenticate()
        assert g.principal.user_id == ADMIN_ID
        assert scope() is None
        require_admin()


def test_a_key_that_was_revoked_is_403(app: Flask, store: Store, key: str) -> None:
    [kept] = store.users.keys(services(app).store.users.authenticate(key).user_id)  # type: ignore[union-attr]  # known
    store.users.revoke(kept.user_id, kept.digest)
    refused(app.test_client().get("/jobs", headers={"X-Kelpie-Key": key}), 403)


def test_no_answer_shows_a_key(app: Flask, key: str) -> None:
    wrong = key + "x"
    for headers in ({"X-Kelpie-Key": wrong}, {"X-Kelpie-Key": key}):
        response = app.test_client().get("/users/me", headers=headers)
        assert key not in json.dumps(response.json)


def test_a_rule_for_a_group_of_a_project_that_the_cloud_does_not_know_is_a_bad_request(store: Store) -> None:
    cloud = SaladCloud()
    group_id = cloud.add("sims")
    user = store.users.create("ada")
    with served(cloud):
        app = create_app(Settings(provider="salad", salad_api_key=cloud.key, salad_api_url=cloud.url), store)
        asked = []
        for project in ("project-1", "misspelt"):
            key, _ = store.users.make_key(user.id, "org one", project)
            asked.append(
                app.test_client().post(
                    "/scaling-rules",
                    json={
                        "container_group_id": group_id,
                        "min_replicas": 0,
                        "max_replicas": 1,
                        "idle_threshold_seconds": 0,
                    },
                    headers={"X-Kelpie-Key": key},
                )
            )
        services(app).close_polls()
        services(app).pulse.close()
    made, refused = asked
    assert made.status_code == 201
    assert refused.status_code == 400
    assert "no such container group in your organization and project" in refused.json["message"]
