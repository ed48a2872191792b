"""Event streams and pages of events over real HTTP."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from kelpie.embedded.processes import LOOPBACK
from kelpie.embedded.valkey import ValkeyServer
from kelpie.http.events import EventPageReply, EventReply
from tests.api import ApiServer, ApiUser
from tests.factories import job_body
from tests.sse import Stream
from tests.waiting import wait_until


@pytest.fixture
def own_server(broker: ValkeyServer, tmp_path: Path) -> Iterator[ApiServer]:
    """An API of this test alone, whose streams last two seconds."""
    with ApiServer(broker.url, tmp_path, KELPIE_EVENT_STREAM_S="2") as server:
        yield server


def run_job(api: ApiUser, group: str) -> str:
    """A job that was submitted, leased and completed; its id."""
    job = api.submit(job_body(container_group_id=group))
    [leased] = api.ok("GET", f"/work?machine_id=node-1&container_group_id={group}")
    report = {"machine_id": "node-1", "container_group_id": group, "lease": leased["lease"]}
    api.ok("POST", f"/jobs/{job['id']}/completed", json=report)
    return str(job["id"])


def told(events: list[Any]) -> list[tuple[str, str]]:
    return [(event["job_id"], event["type"]) for event in events]


def test_a_stream_tells_of_a_job_as_it_happens(api: ApiUser, group: str) -> None:
    with Stream(api, "/events") as stream:
        job_id = run_job(api, group)
        blocks = stream.hear(3)
    assert [block.event for block in blocks] == ["submitted", "running", "completed"]
    for block in blocks:
        EventReply.model_validate(block.data)
        assert block.id == block.data["id"]
        assert block.event == block.data["type"]
    assert blocks[1].data["machine_id"] == "node-1"
    assert blocks[2].data | {"id": None, "time": None} == {
        "id": None,
        "type": "completed",
        "job_id": job_id,
        "container_group_id": group,
        "attempt": 1,
        "machine_id": "node-1",
        "status": "completed",
        "time": None,
    }
    assert stream.blocks[0].retry is not None


@pytest.mark.parametrize("how", ["header", "query", "both"])
def test_a_stream_resumes_after_the_id_that_it_is_given(api: ApiUser, group: str, how: str) -> None:
    with Stream(api, "/events") as stream:
        first = run_job(api, group)
        seen = stream.hear(3)
    second = run_job(api, group)  # while nobody listens
    after = seen[1].id
    assert after is not None
    path = f"/events?after={after}" if how == "query" else "/events?after=0" if how == "both" else "/events"
    headers = {} if how == "query" else {"Last-Event-ID": after}
    with Stream(api, path, headers) as stream:
        third = run_job(api, group)
        got = told([block.data for block in stream.hear(7)])
    lives = [(job, kind) for job in (second, third) for kind in ("submitted", "running", "completed")]
    assert got == [(first, "completed"), *lives]


def test_a_stream_that_heard_nothing_yet_can_be_resumed(api: ApiUser, group: str) -> None:
    with Stream(api, "/events") as stream:
        resume = stream.last_id
    job_id = run_job(api, group)
    with Stream(api, "/events", {"Last-Event-ID": resume}) as stream:
        assert told([block.data for block in stream.hear(3)])[0] == (job_id, "submitted")


def test_a_jobs_stream_begins_with_its_submission_and_tells_of_no_other(api: ApiUser, group: str) -> None:
    job = api.submit(job_body(container_group_id=group))
    api.submit(job_body(container_group_id=group))
    with Stream(api, f"/jobs/{job['id']}/events") as stream:
        api.ok("DELETE", f"/jobs/{job['id']}")
        api.submit(job_body(container_group_id=group))
        api.ok("DELETE", f"/jobs/{job['id']}?purge=true")
        blocks = stream.hear(3)
    assert [block.event for block in blocks] == ["submitted", "canceled", "purged"]
    assert {block.data["job_id"] for block in stream.events} == {job["id"]}


def test_a_page_is_answered_at_once_and_leads_to_the_next(api: ApiUser, group: str) -> None:
    empty = api.ok("GET", "/events")
    assert (empty["_count"], empty["events"], empty["gap"]) == (0, [], False)
    first = run_job(api, group)
    run_job(api, f"{group}-b")
    found, after = [], empty["next"]
    for _ in range(4):
        page = api.ok("GET", f"/events?after={after}&page_size=2")
        EventPageReply.model_validate(page)
        assert page["_count"] == len(page["events"]) <= 2
        found += page["events"]
        after = page["next"]
    assert len(found) == 6
    assert [event["id"] for event in api.ok("GET", "/events")["events"]] == [event["id"] for event in found]
    job = api.ok("GET", f"/jobs/{first}/events")
    assert told(job["events"]) == [(first, kind) for kind in ("submitted", "running", "completed")]
    assert api.ok("GET", f"/jobs/{first}/events?after={job['next']}")["_count"] == 0


@pytest.mark.parametrize(
    ("accept", "query", "kind"),
    [
        ("text/event-stream", "", "text/event-stream"),
        ("text/event-stream", "?format=json", "application/json"),
        ("application/json", "", "application/json"),
        ("*/*", "", "application/json"),
        ("application/json, text/event-stream", "", "text/event-stream"),
    ],
)
def test_a_stream_goes_to_those_who_name_it(api: ApiUser, accept: str, query: str, kind: str) -> None:
    reply = api.server.http.request(
        "GET",
        f"{api.url}/events{query}",
        headers={"X-Kelpie-Key": api.key, "Accept": accept},
        preload_content=False,
        timeout=10,
    )
    assert reply.headers["Content-Type"].startswith(kind)
    assert reply.headers["Cache-Control"] == "no-store"
    reply.close()


def test_another_tenant_hears_nothing_and_the_admin_hears_all(
    api: ApiUser, other: ApiUser, api_server: ApiServer, group: str
) -> None:
    admin = api_server.admin()
    with Stream(api, "/events") as mine, Stream(other, "/events") as theirs, Stream(admin, "/events") as all_:
        job_id = run_job(api, group)
        foreign = run_job(other, group)
        mine.hear(3)
        theirs.hear(3)
        wait_until(
            lambda: {job_id, foreign} <= {block.data["job_id"] for block in all_.events}, "the admin hears"
        )
    assert {block.data["job_id"] for block in mine.events} == {job_id}
    assert {block.data["job_id"] for block in theirs.events} == {foreign}
    for headers in ({}, {"Accept": "text/event-stream"}):
        assert other.request("GET", f"/jobs/{job_id}/events", headers=headers)[0] == 404
        assert admin.request("GET", f"/jobs/{job_id}/events?format=json", headers=headers)[0] == 200
    assert {event["job_id"] for event in other.ok("GET", "/events")["events"]} == {foreign}
    # A place among all events says nothing about whose they are.
    everything = api_server.admin().ok("GET", "/events?after=0&page_size=1000")["events"]
    for event in everything[:3]:
        page = other.ok("GET", f"/events?after={event['id']}")
        assert {one["job_id"] for one in page["events"]} <= {foreign}


@pytest.mark.parametrize("query", ["after=x", "after=1-2", "page_size=0", "page_size=1001", "format=xml",
                                   "after=" + "9" * 100])  # fmt: skip
@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_a_wrong_query_is_400_also_for_a_stream(api: ApiUser, query: str, accept: str) -> None:
    status, headers, body = api.request("GET", f"/events?{query}", headers={"Accept": accept})
    assert status == 400, body
    assert headers["Content-Type"] == "application/json"


def test_a_wrong_last_event_id_is_400(api: ApiUser) -> None:
    status, _, body = api.request("GET", "/events", headers={"Last-Event-ID": "nonsense"})
    assert status == 400
    assert "must be the id of an event, such as 1764000000000-0-17" in body["message"]


def test_an_unknown_job_has_no_events(api: ApiUser) -> None:
    for job_id in (str(uuid.uuid4()), "nonsense"):
        assert api.request("GET", f"/jobs/{job_id}/events")[0] == 404


def test_a_head_request_opens_no_stream(api: ApiUser) -> None:
    for path in ("/events",):
        assert api.request("HEAD", path, headers={"Accept": "text/event-stream"})[0] == 405


def test_a_gap_is_told_first(own_server: ApiServer, broker: ValkeyServer, group: str) -> None:
    user = own_server.new_user()
    run_job(user, group)
    event = user.ok("GET", "/events")["events"][0]
    with own_broker_client(broker) as client:
        [stream] = client.scan_iter(match="kelpie:*:events")
        client.xtrim(stream, maxlen=1, approximate=False)
    assert user.ok("GET", f"/events?after={event['id']}")["gap"] is True
    assert user.ok("GET", "/events")["gap"] is False
    with Stream(user, f"/events?after={event['id']}") as stream:
        gap, left = stream.hear(2)
    assert (gap.event, gap.data, gap.id) == ("gap", {"after": event["id"]}, None)
    assert left.event == "completed"


def own_broker_client(broker: ValkeyServer) -> Any:
    """A client of it."""
    return redis.Redis.from_url(broker.url)


def test_a_stream_ends_after_its_time_and_at_once_when_the_api_stops(own_server: ApiServer) -> None:
    user = own_server.new_user()
    with Stream(user, "/events") as stream:
        assert stream.ended.wait(20)
    with Stream(user, "/events") as stream:
        process = own_server.process
        assert process is not None
        process.terminate()
        assert process.wait(10) == 0
        assert stream.ended.wait(10)


def test_a_user_with_too_many_streams_is_429_and_others_are_served(
    broker: ValkeyServer, tmp_path: Path
) -> None:
    with (
        ApiServer(broker.url, tmp_path / "api", KELPIE_EVENT_STREAMS_PER_USER="1") as server,
        ExitStack() as open_streams,
    ):
        user, stranger, refused = server.new_user(), server.new_user(), 0
        job_id = user.submit(job_body())["id"]
        for path in ("/events", f"/jobs/{job_id}/events", "/events"):  # of two processes
            reply = server.http.request(
                "GET",
                f"{server.url}{path}",
                headers={"X-Kelpie-Key": user.key, "Accept": "text/event-stream"},
                preload_content=False,
                timeout=10,
            )
            open_streams.callback(reply.close)
            assert reply.status in (200, 429)
            refused += reply.status == 429
        assert refused
        open_streams.enter_context(Stream(stranger, "/events"))


def test_without_redis_a_stream_is_refused_and_open_ones_go_on_when_it_is_back(
    broker: ValkeyServer, tmp_path: Path, group: str
) -> None:
    with ApiServer(broker.url, tmp_path / "api") as server:
        user = server.new_user()
        with Stream(user, "/events") as stream:
            broker.kill()
            reply = user.request("GET", "/events", headers={"Accept": "text/event-stream"})
            assert reply[0] == 503
            broker.start()
            wait_until(server.is_ready, "the API serves again")
            job_id = run_job(user, group)
            assert told([block.data for block in stream.hear(3)])[0] == (job_id, "submitted")


def test_a_client_that_reads_nothing_is_disconnected_and_others_are_served(
    broker: ValkeyServer, tmp_path: Path
) -> None:
    batch = [job_body(container_group_id="é" * 256)] * 1000  # as much text per event as there can be
    with ApiServer(broker.url, tmp_path / "api") as server:
        user = server.new_user()
        with socket.create_connection((LOOPBACK, server.port)) as mute:
            head = [
                "GET /events HTTP/1.1",
                "Host: x",
                f"X-Kelpie-Key: {user.key}",
                "Accept: text/event-stream",
            ]
            mute.sendall("\r\n".join([*head, "", ""]).encode())
            assert mute.recv(100).startswith(b"HTTP/1.1 200")
            with Stream(user, "/events") as reader:
                for number in range(1, 19):
                    user.ok("POST", "/jobs/batch", json=batch)
                    reader.hear(1000 * number)
            mute.settimeout(10)  # below the interval of heartbeats, so that a stream that goes on fails this
            while mute.recv(2**20):  # what was under way, then the end
                pass


def test_events_of_every_status_have_the_shape_of_the_schema(api: ApiUser, group: str) -> None:
    job = api.submit(job_body(container_group_id=group, max_failures=2))
    path = f"/work?container_group_id={group}&machine_id="
    for number in range(2):
        [leased] = api.ok("GET", f"{path}node-{number}")
        report = {"machine_id": f"node-{number}", "container_group_id": group, "lease": leased["lease"]}
        api.ok("POST", f"/jobs/{job['id']}/failed", json=report)
    page = api.ok("GET", f"/jobs/{job['id']}/events")
    EventPageReply.model_validate(page)
    assert [event["type"] for event in page["events"]] == [
        "submitted", "running", "app_failed", "running", "failed",
    ]  # fmt: skip
