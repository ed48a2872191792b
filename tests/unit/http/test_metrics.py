"""/metrics: what it says, to whom, and how many series it can have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from werkzeug.test import TestResponse

from kelpie.config import Settings
from kelpie.embedded.valkey import ValkeyServer
from kelpie.http import metrics as metrics_module
from kelpie.http.app import create_app
from kelpie.http.context import services
from kelpie.http.meter import BUCKETS_S, Meter
from kelpie.job import Holder, Outcome
from kelpie.platform import tasks
from kelpie.store import ADMIN_ID, Poller, Scope, Store, backlog
from kelpie.store.metrics import COUNTERS
from tests.factories import GROUP, spec
from tests.waiting import wait_until

TOKEN = "metrics-token-of-the-operator"
ADMIN_KEY = "a" * 40
BEARER = {"Authorization": f"Bearer {TOKEN}"}

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def app(valkey: ValkeyServer, store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    monkeypatch.setattr(metrics_module, "CACHE_S", 0.0)
    store.users.ensure_admin(ADMIN_KEY)
    settings = Settings(redis_url=valkey.url, metrics_token=TOKEN, metrics_queues=2)
    app = create_app(settings, Store.connect(valkey.url))
    yield app
    services(app).close()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def read(response: TestResponse) -> Samples:
    assert response.status_code == 200, response.text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": f"Basic {TOKEN}"}, 401),
        ({"X-Kelpie-Key": TOKEN}, 403),
        ({"X-Kelpie-Key": "wrong"}, 403),
        ({"X-Kelpie-Key": ADMIN_KEY}, 200),
        (BEARER, 200),
        ({"Authorization": f"bearer {TOKEN}"}, 200),
    ],
)
def test_only_the_operator_reads_metrics(client: FlaskClient, headers: dict[str, str], status: int) -> None:
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == status
    assert ("kelpie_queues" in answer.text) == (status == 200)


def test_a_user_is_refused(client: FlaskClient, store: Store) -> None:
    user = store.users.create("somebody")
    key = store.users.create_key(user.id, "o", "p")
    assert client.get("/metrics", headers={"X-Kelpie-Key": key}).status_code == 403


def test_a_key_of_the_admin_needs_the_scope_admin_and_no_other(client: FlaskClient, store: Store) -> None:
    for scope, status in ((Scope.ADMIN, 200), (Scope.SUBMIT, 403), (Scope.WORK, 403)):
        key, _ = store.users.make_key(ADMIN_ID, "o", "p", scopes=[scope])
        assert client.get("/metrics", headers={"X-Kelpie-Key": key}).status_code == status


@pytest.mark.parametrize("headers", [{}, BEARER, {"X-Kelpie-Key": ADMIN_KEY}])
def test_what_methods_it_has_is_no_secret(client: FlaskClient, headers: dict[str, str]) -> None:
    assert client.options("/metrics", headers=headers).status_code == 200


def test_without_a_token_no_bearer_is_let_in(valkey: ValkeyServer, store: Store) -> None:
    app = create_app(Settings(redis_url=valkey.url), Store.connect(valkey.url))
    try:
        for shown in ("", "None", TOKEN):
            answer = app.test_client().get("/metrics", headers={"Authorization": f"Bearer {shown}"})
            assert answer.status_code in (401, 403)
    finally:
        services(app).close()


def test_the_jobs_of_a_queue_are_counted_by_what_they_do(client: FlaskClient, store: Store) -> None:
    _, second, *_ = store.submit("user-1", [spec() for _ in range(5)])
    lease = store.lease("user-1", GROUP, "node-1", "request-00000001")
    other = store.lease("user-1", GROUP, "node-2", "request-00000002")
    assert lease is not None
    assert other is not None
    store.finish(second.id, Holder("node-2", other.secret), Outcome.APP_FAILED)
    labels = {"user": "user-1", "container_group": GROUP}
    samples = read(client.get("/metrics", headers=BEARER))
    assert value(samples, "kelpie_queue_pending_jobs", **labels) == 3
    assert value(samples, "kelpie_queue_running_jobs", **labels) == 2
    assert value(samples, "kelpie_queue_leased_jobs", **labels) == 1
    assert value(samples, "kelpie_queue_waiting_jobs", **labels) == 4
    assert value(samples, "kelpie_queue_stale_jobs", **labels) == 1
    age_s = value(samples, "kelpie_queue_oldest_pending_seconds", **labels)
    assert 0 < age_s < 600
    assert value(samples, "kelpie_redis_up") == 1
    assert value(samples, "kelpie_queues") == 1


def test_what_nodes_have_to_upload_is_told_of_the_job_and_of_its_queue(
    client: FlaskClient, store: Store
) -> None:
    user = store.users.create("somebody")
    key = {"X-Kelpie-Key": store.users.create_key(user.id, "o", "p")}
    [job] = store.submit(user.id, [spec()])
    lease = store.lease(user.id, GROUP, "node-1", "request-00000001")
    assert lease is not None
    report = {"machine_id": "node-1", "container_group_id": GROUP, "lease": lease.secret}
    assert "upload_backlog" not in client.get(f"/jobs/{job.id}", headers=key).json
    said = {"files": 3, "bytes": 4000, "oldest_s": 2.5}
    beat = client.post(f"/jobs/{job.id}/heartbeat", headers=key, json=report | {"upload_backlog": said})
    assert beat.status_code == 200
    assert client.get(f"/jobs/{job.id}", headers=key).json["upload_backlog"] == said
    samples = read(client.get("/metrics", headers=BEARER))
    labels = {"user": user.id, "container_group": GROUP}
    assert value(samples, "kelpie_queue_upload_backlog_files", **labels) == 3
    assert value(samples, "kelpie_queue_upload_backlog_bytes", **labels) == 4000
    assert value(samples, "kelpie_queue_upload_backlog_oldest_seconds", **labels) == 2.5
    for wrong in ({"files": -1, "bytes": 0}, {"files": 1}, {"files": 1, "bytes": 2**60}, [], "3"):
        beat = client.post(f"/jobs/{job.id}/heartbeat", headers=key, json=report | {"upload_backlog": wrong})
        assert beat.status_code == 400
    assert client.get(f"/jobs/{job.id}", headers=key).json["upload_backlog"] == said


def test_counters_of_queues_are_read_and_missing_ones_are_zero(client: FlaskClient, store: Store) -> None:
    store.submit("user-1", [spec(container_group_id=group) for group in ("a", "b", "c")])
    for number, group in enumerate(("a", "b", "c"), start=1):
        place = store._registry.find("user-1", group)
        assert place is not None
        store.redis.delete(place.keys.counters)
        store.redis.hset(
            place.keys.counters,
            mapping={"submitted": 10 * number, "lost_ms": 1500, "attempts_interrupted": number},
        )
    samples = read(client.get("/metrics", headers=BEARER))
    assert value(samples, "kelpie_jobs_submitted_total") == 60
    assert value(samples, "kelpie_lost_work_seconds_total") == 4.5
    assert value(samples, "kelpie_attempts_total", outcome="interrupted") == 6
    assert value(samples, "kelpie_attempts_total", outcome="completed") == 0
    labels = {"user": "user-1", "container_group": "b"}
    assert value(samples, "kelpie_queue_jobs_submitted_total", **labels) == 20
    assert value(samples, "kelpie_queue_attempts_total", outcome="interrupted", **labels) == 2


def test_queues_beyond_the_limit_are_summed_and_make_no_series(client: FlaskClient, store: Store) -> None:
    for number in range(6):
        store.submit("user-1", [spec(container_group_id=f"group-{number}") for _ in range(number + 1)])
    samples = read(client.get("/metrics", headers=BEARER))
    named = {dict(labels).get("container_group") for _, labels in samples} - {None}
    assert named == {"group-5", "group-4", "other"}
    other = {"user": "other", "container_group": "other"}
    assert value(samples, "kelpie_queue_pending_jobs", **other) == 1 + 2 + 3 + 4
    total = sum(amount for (name, _), amount in samples.items() if name == "kelpie_queue_pending_jobs")
    assert total == 21
    # A sum of counters over changing queues could fall.
    assert ("kelpie_queue_jobs_submitted_total", tuple(sorted(other.items()))) not in samples


def test_requests_are_counted_by_route_and_a_client_makes_no_series(app: Flask, client: FlaskClient) -> None:
    for number in range(5):
        client.get(f"/jobs/no-such-job-{number}", headers={"X-Kelpie-Key": ADMIN_KEY})
        client.get(f"/no/such/path/{number}")
    client.open("/healthz", method="BREW")
    for beat in services(app).pulse._beats:
        beat()
    samples = read(client.get("/metrics", headers=BEARER))
    counted = {"method": "GET", "route": "/jobs/<job_id>"}
    assert value(samples, "kelpie_http_requests_total", status="404", **counted) == 5
    assert value(samples, "kelpie_http_requests_total", method="GET", route="other", status="404") == 5
    assert value(samples, "kelpie_http_request_seconds_count", **counted) == 5
    assert value(samples, "kelpie_http_request_seconds_bucket", le="+Inf", **counted) == 5
    assert 0 < value(samples, "kelpie_http_request_seconds_sum", **counted) < 60
    assert not any("no-such" in str(labels) or "BREW" in str(labels) for _, labels in samples)


def test_processes_add_up_and_a_repeated_report_counts_once(store: Store) -> None:
    poller = Poller(store)
    meters = [Meter(store.metrics, poller) for _ in range(3)]
    for meter in meters:
        meter.count("GET", "/x", 200, 0.003)
        meter.report()
    meters[0].count("GET", "/x", 200, 1e9)
    meters[0].report()
    store.metrics.report(meters[0]._process, 1, 7, {"requests\tGET\t/x\t200": 1})  # came late, a second time
    figures = store.metrics.api()
    assert figures.totals["requests\tGET\t/x\t200"] == 4
    assert figures.totals["bucket\tGET\t/x\t0"] == 3
    assert figures.totals[f"bucket\tGET\t/x\t{len(BUCKETS_S)}"] == 1
    assert figures.processes == 3
    assert figures.open_polls == 0


def test_what_could_not_be_told_is_told_later(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path) as server:
        store = Store.connect(server.url)
        meter = Meter(store.metrics, Poller(store))
        meter.count("GET", "/x", 200, 0.0)
        server.stop()
        for _ in range(2):
            with pytest.raises(Exception, match="Redis"):
                meter.report()
            meter.count("GET", "/x", 200, 0.0)
        server.start()
        wait_until(store.redis.ping, "the server is back")
        meter.report()
        meter.report()
        assert store.metrics.api().totals["requests\tGET\t/x\t200"] == 3
        store.close()


def test_without_redis_the_scrape_says_so(client: FlaskClient, app: Flask, monkeypatch: Any) -> None:
    orphan = create_app(
        Settings(redis_url="redis://127.0.0.1:1/0", metrics_token=TOKEN),
        Store.connect("redis://127.0.0.1:1/0"),
    )
    try:
        samples = read(orphan.test_client().get("/metrics", headers=BEARER))
        assert value(samples, "kelpie_redis_up") == 0
        assert not any(name.startswith("kelpie_queue_") for name, _ in samples)
    finally:
        services(orphan).close()


def test_webhook_deliveries_that_wait_are_counted(client: FlaskClient, store: Store) -> None:
    assert backlog.QUEUE == tasks.QUEUE
    store.redis.rpush(f"rq:queue:{tasks.QUEUE}", "a", "b")
    store.redis.hset("kelpie:{webhooks}:queued", mapping={"user-1": 3, "user-2": 4})
    store.redis.zadd(f"rq:failed:{tasks.QUEUE}", {"c": 1})
    samples = read(client.get("/metrics", headers=BEARER))
    assert value(samples, "kelpie_webhook_deliveries", state="queued") == 2
    assert value(samples, "kelpie_webhook_deliveries", state="failed") == 1
    assert value(samples, "kelpie_webhook_deliveries", state="running") == 0
    assert value(samples, "kelpie_webhook_deliveries", state="waiting") == 7


def test_scrapes_within_a_second_read_redis_once(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_module, "CACHE_S", 3600.0)
    reads: list[int] = []
    queues = type(services(app).store.metrics).queues
    monkeypatch.setattr(
        type(services(app).store.metrics), "queues", lambda self: reads.append(1) or queues(self)
    )
    for _ in range(5):
        assert client.get("/metrics", headers=BEARER).status_code == 200
    assert len(reads) == 1


def test_every_counter_of_a_queue_is_shown() -> None:
    shown = {field for _, field, _ in metrics_module.COUNTED.values()}
    for _, _, values, prefix in metrics_module.LABELED.values():
        shown |= {prefix + value for value in values}
    assert shown == set(COUNTERS)
