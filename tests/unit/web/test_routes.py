"""What holds for every route of the dashboard, found in the application itself: a new one is asked too."""

from __future__ import annotations

import gzip
import json
import random
import re
import uuid
from dataclasses import dataclass

import pytest
from flask import Flask

from kelpie.http.audit import ACTIONS
from kelpie.job import Holder
from kelpie.progress import MAX_POINT_METRICS, ProgressReport
from kelpie.store import Scope, Store
from kelpie.store.ids import queue_number_of
from kelpie.store.keys import QueueKeys
from kelpie.store.progress_history import MAX_POINTS
from kelpie_web.ui import PUBLIC
from tests.factories import spec
from tests.unit.web.conftest import Browser, LogIn

ELSEWHERE = frozenset({"ui.asset", "ui.events", "ui.nowhere", "ui.oidc_start", "ui.oidc_callback"})
WORD = "sentinel-3f9c"
ADMIN_ONLY = "/ui/users"
MAX_PAGE_BYTES = 120 * 1024
READS = frozenset({"ui.check"})
"""Sends a form and changes nothing; a test of the audit need not know it."""


@dataclass(frozen=True)
class Things:
    """What one user has, by the names of parameters in addresses."""

    owner: Browser
    ids: dict[str, str]


@pytest.fixture
def things(app: Flask, store: Store, log_in: LogIn) -> Things:
    owner = log_in("owner")
    [job] = store.submit(
        owner.user_id,
        [spec(container_group_id=WORD, arguments=(WORD,), webhook=f"http://127.0.0.1:9/{WORD}")],
    )
    lease = store.lease(owner.user_id, WORD, f"node-{WORD}", "")
    assert lease is not None
    _tell_much(store, Holder(f"node-{WORD}", lease.secret), job.id)
    delivery_id = f"msg_{uuid.uuid4().hex}"
    store.deliveries.put(
        delivery_id,
        user_id=owner.user_id,
        job_id=job.id,
        event="running",
        url=f"http://127.0.0.1:9/{WORD}",
        receiver="127.0.0.1:9",
        body="{}",
    )
    queue = store.find_queue(owner.user_id, WORD)
    assert queue is not None
    _, key = store.users.make_key(owner.user_id, "org", "project", name=WORD)
    ids = {
        "job_id": job.id,
        "action": "cancel",
        "name": f"node-{WORD}",
        "number": str(queue.number),
        "delivery_id": delivery_id,
        "user_id": owner.user_id,
        "key_id": key.id,
    }
    return Things(owner, ids)


def _tell_much(store: Store, holder: Holder, job_id: str) -> None:
    """As long a history of progress as is kept, with as many metrics."""
    draw = random.Random(7)
    queue_number = queue_number_of(job_id)
    assert queue_number is not None
    begin_ms = store.events.now_ms() - 60_000 * MAX_POINTS
    points = []
    for place in range(MAX_POINTS - 1):
        metrics = {f"m{n}": draw.random() for n in range(MAX_POINT_METRICS)}
        points.append(json.dumps([begin_ms + 60_000 * place, 1 + place // 40, draw.random(), place, metrics]))
    store.redis.rpush(QueueKeys(queue_number).progress_history(job_id), *points)
    store.heartbeat(job_id, holder, progress=ProgressReport(0.5))


def routes(app: Flask, method: str) -> list[tuple[str, str]]:
    """Endpoint and address template of every route of the pages that takes the method."""
    return [
        (rule.endpoint, rule.rule)
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/ui") and method in (rule.methods or ()) and rule.endpoint not in ELSEWHERE
    ]


def filled(template: str, ids: dict[str, str]) -> str:
    return re.sub(r"<(?:\w+:)?(\w+)>", lambda found: ids[found[1]], template)


def test_without_a_session_every_page_leads_to_the_log_in_and_every_deed_is_refused(
    app: Flask, things: Things
) -> None:
    client = app.test_client()
    for endpoint, template in routes(app, "GET"):
        if endpoint not in PUBLIC:
            answer = client.get(filled(template, things.ids))
            assert (answer.status_code, answer.location.split("?")[0]) == (302, "/ui/login"), template
            asked = client.get(filled(template, things.ids), headers={"HX-Request": "true"})
            assert asked.status_code == 401, template
    for endpoint, template in routes(app, "POST"):
        if endpoint not in PUBLIC:
            assert client.post(filled(template, things.ids)).status_code == 401, template


def test_every_form_needs_the_token_of_its_session_and_must_come_from_here(
    app: Flask, things: Things, admin: Browser, store: Store
) -> None:
    before = store.get(things.ids["job_id"])
    asked = 0
    for endpoint, template in routes(app, "POST"):
        who = admin if template.startswith(ADMIN_ONLY) else things.owner
        path, token = filled(template, things.ids), who.csrf
        foreign = who.client.post(path, data={"csrf": token}, headers={"Origin": "https://evil.example"})
        assert (foreign.status_code, "another site" in foreign.text) == (403, True), template
        if endpoint in PUBLIC:
            continue
        for fields in ({}, {"csrf": ""}, {"csrf": "0" * 64}, {"csrf": "é"}, {"csrf": admin.csrf[::-1]}):
            refused = who.client.post(path, data=fields)
            assert (refused.status_code, "not one of your session" in refused.text) == (403, True), template
        asked += 1
    assert asked >= 15
    assert store.get(before.id) == before


def test_nothing_of_one_user_is_seen_or_changed_by_another_on_any_page(
    app: Flask, things: Things, log_in: LogIn, store: Store
) -> None:
    stranger = log_in("stranger")
    before = (store.get(things.ids["job_id"]), store.users.keys(things.owner.user_id))
    for _, template in routes(app, "GET"):
        answer = stranger.client.get(filled(template, things.ids))
        assert answer.status_code in ({403, 404} if "<" in template or template == ADMIN_ONLY else {200})
        shown = answer.text.replace(filled(template, things.ids), "")
        if "<" not in template or answer.status_code == 200:
            assert WORD not in shown, template
        assert things.ids["job_id"] not in shown.replace(f"no job &#39;{things.ids['job_id']}", ""), template
    for endpoint, template in routes(app, "POST"):
        if endpoint == "ui.logout" or endpoint in PUBLIC:
            continue
        answer = stranger.post(
            filled(template, things.ids), ids=things.ids["job_id"], action="delete", id=things.ids["job_id"]
        )
        if "<" in template:
            assert answer.status_code in {403, 404}, (template, answer.status_code)
        assert answer.status_code < 500, template
    after = (store.get(things.ids["job_id"]), store.users.keys(things.owner.user_id))
    assert after == before


def test_a_key_that_reads_changes_nothing(app: Flask, things: Things, log_in: LogIn) -> None:
    reader = log_in("reader", Scope.READ)
    token = reader.csrf
    for endpoint, template in routes(app, "POST"):
        if endpoint not in PUBLIC | {"ui.logout"}:
            answer = reader.client.post(filled(template, things.ids), data={"csrf": token})
            assert answer.status_code == 403, template
    assert reader.post("/ui/logout").status_code == 303
    assert reader.client.get("/ui").status_code == 302


def test_every_page_is_served_with_a_strict_policy_and_loads_little(
    app: Flask, things: Things, admin: Browser
) -> None:
    assets: dict[str, int] = {}

    def load(path: str) -> int:
        if path not in assets:
            answer = admin.client.get(path, headers={"Accept-Encoding": "gzip"})
            assert answer.status_code == 200, path
            assert answer.cache_control.max_age == 365 * 86_400
            assets[path] = len(answer.data)
        return assets[path]

    for _, template in routes(app, "GET"):
        who = admin if template.startswith((ADMIN_ONLY, "/ui/login")) else things.owner
        answer = who.client.get(filled(template, things.ids))
        assert answer.status_code == 200, template
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["Cache-Control"] == "no-store"
        assert re.search(r"<[^>]+ (style|on\w+)=", answer.text) is None, template
        loaded = re.findall(r'(?:src|href)="(/ui/static/[^"#]+)', answer.text)
        total = len(gzip.compress(answer.data)) + sum(map(load, set(loaded)))
        assert total < MAX_PAGE_BYTES, (template, total)


def test_every_operation_of_the_api_that_changes_something_for_users_is_in_the_audit(app: Flask) -> None:
    changing = {
        rule.endpoint
        for rule in app.url_map.iter_rules()
        if (rule.methods or set()) - {"GET", "HEAD", "OPTIONS"}
        and not rule.endpoint.startswith(("ui.", "work."))
        and rule.endpoint != "container_groups.report"  # what a host of nodes says
    }
    assert changing == set(ACTIONS)


def test_every_form_of_the_pages_is_in_the_audit(app: Flask, things: Things, store: Store) -> None:
    """Each view that takes a form says what it did, or calls one that does."""
    for endpoint, template in routes(app, "POST"):
        view = app.view_functions[endpoint]
        names: set[str] = set()
        while view is not None:
            names |= set(view.__code__.co_names)
            view = getattr(view, "__wrapped__", None)
        if endpoint not in READS | {"ui.logout", "ui.bulk_preview"}:
            assert names & {"note", "note_submit"}, template
