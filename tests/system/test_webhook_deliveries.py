"""What users see of webhooks over real HTTP, delivered by the real platform."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from standardwebhooks.webhooks import Webhook

from kelpie.embedded.valkey import ValkeyServer
from kelpie.http.webhooks import DeliveryPageReply, DeliveryReply, RotatedReply
from tests.api import ApiServer, ApiUser
from tests.factories import job_body
from tests.platform import PlatformProcess
from tests.unit.platform.receiver import Receiver, receiver
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API with a platform beside it."""
    directory = tmp_path_factory.mktemp("webhooks")
    with (
        ValkeyServer(directory / "valkey") as broker,
        ApiServer(broker.url, directory / "api") as server,
        PlatformProcess(broker.url, directory / "platform"),
    ):
        yield server


@pytest.fixture
def user(server: ApiServer) -> ApiUser:
    """A new user of it."""
    return server.new_user()


@pytest.fixture
def to() -> Iterator[Receiver]:
    """A receiver of webhooks."""
    with receiver() as to:
        yield to


def run_job(user: ApiUser, to: Receiver, **job: Any) -> str:
    """A job that was leased and completed; its id."""
    group = f"group-{uuid.uuid4().hex[:8]}"
    submitted = user.submit(
        job_body(container_group_id=group, webhook=f"{to.url}/hook?token=hush-hush", **job)
    )
    [leased] = user.ok("GET", f"/work?machine_id=node-1&container_group_id={group}")
    report = {"machine_id": "node-1", "container_group_id": group, "lease": leased["lease"]}
    user.ok("POST", f"/jobs/{submitted['id']}/completed", json=report)
    return str(submitted["id"])


def deliveries(user: ApiUser, query: str = "") -> list[dict[str, Any]]:
    page = user.ok("GET", f"/webhooks/deliveries{query}")
    DeliveryPageReply.model_validate(page)
    assert page["_count"] == len(page["deliveries"])
    return list(page["deliveries"])


def test_a_receiver_of_before_hears_of_running_failed_and_completed_in_the_words_that_it_knows(
    user: ApiUser, to: Receiver
) -> None:
    group = f"group-{uuid.uuid4().hex[:8]}"
    body = job_body(container_group_id=group, webhook=to.url, max_failures=1)
    ids = {}
    for node, end in (("node-1", "completed"), ("node-2", "failed")):
        ids[node] = user.submit(body)["id"]
        [leased] = user.ok("GET", f"/work?machine_id={node}&container_group_id={group}")
        assert leased["id"] == ids[node]
        report = {"machine_id": node, "container_group_id": group}
        user.ok("POST", f"/jobs/{leased['id']}/{end}", json=report)
    wait_until(lambda: len(to.deliveries) == 4, "two of each job")
    bodies = [json.loads(delivery.body) for delivery in to.deliveries]
    for node, end in (("node-1", "completed"), ("node-2", "failed")):
        who = {"job_id": ids[node], "machine_id": node, "container_group_id": group}
        assert {"status": "running"} | who in bodies
        assert {"status": end} | who in bodies
    secret = user.ok("GET", "/users/me")["webhook_secret"]
    for delivery in to.deliveries:
        assert delivery.headers["content-type"] == "application/json"
        assert delivery.headers["x-kelpie-key"] == secret
        assert delivery.headers["user-agent"].startswith("kelpie/")
        assert delivery.headers.keys() >= {"webhook-id", "webhook-timestamp", "webhook-signature"}
        Webhook(secret).verify(delivery.body, delivery.headers)
        assert user.key not in repr(delivery)


def test_every_delivery_is_kept_with_what_became_of_it(user: ApiUser, to: Receiver) -> None:
    job_id = run_job(user, to)
    found = wait_until(
        lambda: deliveries(user, f"?job_id={job_id}&status=delivered")[1:] and deliveries(user), "both"
    )
    assert [one["event"] for one in found] == ["completed", "running"]
    for one in found:
        assert one["job_id"] == job_id
        assert one["url"] == f"{to.url}/hook?***"
        assert [(attempt["status_code"], attempt["error"]) for attempt in one["attempts"]] == [(204, None)]
        assert one["next_try"] is None
        assert user.ok("GET", f"/webhooks/deliveries/{one['id']}") == one
    assert {delivery.headers["webhook-id"] for delivery in to.deliveries} == {one["id"] for one in found}
    assert to.deliveries[0].path == "/hook?token=hush-hush"


def test_a_replay_comes_with_the_same_id(user: ApiUser, to: Receiver) -> None:
    to.statuses = [410]
    run_job(user, to, webhook_events=["completed"])
    [failed] = wait_until(lambda: deliveries(user, "?status=failed"), "the receiver said that it is gone")
    to.statuses = [204]
    replayed = user.request("POST", f"/webhooks/deliveries/{failed['id']}/replay")
    assert replayed[0] == 202
    DeliveryReply.model_validate(replayed[2])
    assert replayed[2]["status"] == "queued"
    [done] = wait_until(lambda: deliveries(user, "?status=delivered"), "it was delivered")
    assert [attempt["status_code"] for attempt in done["attempts"]] == [410, 204]
    assert [delivery.headers["webhook-id"] for delivery in to.deliveries] == [failed["id"]] * 2


def test_the_old_secret_signs_beside_the_new_one(user: ApiUser, to: Receiver) -> None:
    old = user.ok("GET", "/users/me")["webhook_secret"]
    status, _, rotated = user.request("POST", "/users/me/webhook-secret/rotate")
    assert status == 200
    RotatedReply.model_validate(rotated)
    new = user.ok("GET", "/users/me")["webhook_secret"]
    assert rotated["webhook_secret"] == new != old
    run_job(user, to, webhook_events=["completed"])
    wait_until(lambda: to.deliveries, "a delivery")
    for secret in (old, new):
        Webhook(secret).verify(to.deliveries[0].body, to.deliveries[0].headers)


def test_a_job_is_told_of_what_it_asks_for(user: ApiUser, to: Receiver) -> None:
    job = user.submit(job_body(webhook=to.url, webhook_events=["canceled", "canceled"]))
    assert job["webhook_events"] == ["canceled"]
    user.ok("DELETE", f"/jobs/{job['id']}")
    wait_until(lambda: to.deliveries, "the cancel")
    assert b'"status":"canceled"' in to.deliveries[0].body
    assert user.submit(job_body())["webhook_events"] is None


def test_a_job_is_told_of_what_befalls_its_attempts_when_it_asks_for_it(user: ApiUser, to: Receiver) -> None:
    group = f"group-{uuid.uuid4().hex[:8]}"
    events = ["interrupted", "released", "app_failed", "sync_failed"]
    user.submit(
        job_body(container_group_id=group, webhook=to.url, webhook_events=events, heartbeat_interval=1)
    )
    for node, call, more in (
        ("a", "released", {}),
        ("b", "failed", {}),
        ("c", "failed", {"outcome": "sync_failed"}),
        ("d", None, {}),  # it is never heard of again
    ):
        [leased] = user.ok("GET", f"/work?machine_id={node}&container_group_id={group}")
        report = {"machine_id": node, "container_group_id": group}
        if call is not None:
            user.ok("POST", f"/jobs/{leased['id']}/{call}", json=report | more)
    wait_until(lambda: len(to.deliveries) == 4, "all four")
    said = [json.loads(delivery.body) for delivery in to.deliveries]
    assert {one["status"]: one["machine_id"] for one in said} == {
        **{"released": "a", "app_failed": "b", "sync_failed": "c", "interrupted": "d"}
    }


@pytest.mark.parametrize("wrong", [["nonsense"], "running", [1], ["purged"], ["running"] * 100])
def test_wrong_events_are_400(user: ApiUser, wrong: Any) -> None:
    status, _, body = user.request("POST", "/jobs", json=job_body(webhook_events=wrong))
    assert status == 400
    assert body["errors"][0]["path"].startswith("webhook_events")


def test_nobody_elses_deliveries_exist_not_even_for_the_admin(
    server: ApiServer, user: ApiUser, to: Receiver
) -> None:
    job_id = run_job(user, to)
    mine = wait_until(lambda: deliveries(user), "a delivery")
    for stranger in (server.new_user(), server.admin()):
        assert deliveries(stranger, f"?job_id={job_id}") == []
        assert job_id not in {one["job_id"] for one in deliveries(stranger)}
        for method, path in (("GET", ""), ("POST", "/replay")):
            assert stranger.request(method, f"/webhooks/deliveries/{mine[0]['id']}{path}")[0] == 404


def test_deliveries_go_with_their_job(user: ApiUser, to: Receiver) -> None:
    job_id = run_job(user, to)
    wait_until(lambda: len(deliveries(user, "?status=delivered")) == 2, "both deliveries")
    user.ok("DELETE", f"/jobs/{job_id}?purge=true")
    wait_until(lambda: deliveries(user) == [], "they are gone")


def test_pages_lead_to_the_next(user: ApiUser, to: Receiver) -> None:
    ids = {run_job(user, to, webhook_events=["completed"]) for _ in range(3)}
    wait_until(lambda: len(deliveries(user)) == 3, "three deliveries")
    first = user.ok("GET", "/webhooks/deliveries?page_size=2")
    last = user.ok("GET", f"/webhooks/deliveries?page_size=2&cursor={first['next_cursor']}")
    assert last["next_cursor"] is None
    assert {one["job_id"] for one in first["deliveries"] + last["deliveries"]} == ids


@pytest.mark.parametrize(
    "query", ["page_size=0", "page_size=1001", "cursor=x", "cursor=-1", "status=lost", "job_id=x"]
)
def test_a_wrong_query_is_400(user: ApiUser, query: str) -> None:
    assert user.request("GET", f"/webhooks/deliveries?{query}")[0] == 400


def test_a_receiver_that_hangs_does_not_keep_other_users_waiting(tmp_path: Path, to: Receiver) -> None:
    let_go = threading.Event()
    with (
        receiver() as hanging,
        ValkeyServer(tmp_path / "valkey") as broker,
        ApiServer(broker.url, tmp_path / "api") as server,
        PlatformProcess(broker.url, tmp_path / "platform", KELPIE_WEBHOOK_TIMEOUT_S="1"),
    ):
        hanging.before_answer = lambda: let_go.wait(60)
        unlucky, other = server.new_user(), server.new_user()
        group = job_body(container_group_id="g", webhook=hanging.url, webhook_events=["canceled"])
        jobs = unlucky.ok("POST", "/jobs/batch", json=[group] * 40)
        for job in jobs:
            unlucky.ok("DELETE", f"/jobs/{job['id']}")
        wait_until(lambda: hanging.deliveries, "the first one hangs")
        run_job(other, to, webhook_events=["completed"])
        wait_until(lambda: to.deliveries, "another user's delivery")
        assert len(hanging.deliveries) <= 6  # not after all of the 40
        # Five in a row found it away, so that the others wait without being tried.
        wait_until(lambda: len(hanging.deliveries) >= 5, "five tries")
        let_go.set()
        hanging.before_answer = lambda: None
        wait_until(
            lambda: len(deliveries(unlucky, "?status=delivered")) == 40,
            "all are delivered once it answers",
            timeout_s=90,
        )


def test_a_platform_killed_while_it_delivers_delivers_again(tmp_path: Path, to: Receiver) -> None:
    arrived = threading.Event()
    with (
        ValkeyServer(tmp_path / "valkey") as broker,
        ApiServer(broker.url, tmp_path / "api") as server,
        PlatformProcess(broker.url, tmp_path / "platform", KELPIE_WEBHOOK_TIMEOUT_S="1") as platform,
    ):
        user = server.new_user()
        platform_is_gone = threading.Event()
        to.before_answer = lambda: (arrived.set(), platform_is_gone.wait(60))
        job_id = run_job(user, to, webhook_events=["completed"])
        assert arrived.wait(30)
        family = platform.family()
        for process in family:
            process.kill()
        psutil.wait_procs(family, timeout=10)
        platform_is_gone.set()
        platform.launch()
        [done] = wait_until(
            lambda: deliveries(user, f"?job_id={job_id}&status=delivered"), "it is delivered", timeout_s=90
        )
        assert done["attempts"][0]["error"] == "the process that delivered it ended"
        assert {delivery.headers["webhook-id"] for delivery in to.deliveries} == {done["id"]}
        assert len(to.deliveries) == 2
