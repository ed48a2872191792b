"""Following events and looking at webhooks: what the client resumes, and what the command line shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kelpie import Client
from kelpie.client import Event
from kelpie.client.feed import MAX_LINE_BYTES
from kelpie.embedded.valkey import ValkeyServer
from kelpie.errors import ForbiddenError, NotFoundError, UnavailableError
from tests.api import ApiServer
from tests.factories import job_body
from tests.unit.cli.conftest import JOB_ID, Said, Scripted

Kelpie = Callable[..., Said]
STREAM = {"Content_Type": "text/event-stream"}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kelpie.client.feed._RETRY_S", 0.001)


def event_wire(number: int, kind: str = "running", **overrides: Any) -> dict[str, Any]:
    """An event as the API describes it."""
    wire = {
        "id": f"{number}-0-1",
        "type": kind,
        "job_id": JOB_ID,
        "container_group_id": "q",
        "attempt": 1,
        "machine_id": "node-1",
        "status": "running",
        "time": "2026-11-24T00:00:00.000Z",
    }
    return wire | overrides


def told(number: int, kind: str = "running", **overrides: Any) -> bytes:
    """The same as a block of a stream."""
    wire = event_wire(number, kind, **overrides)
    return f"id: {wire['id']}\nevent: {kind}\ndata: {json.dumps(wire)}\n\n".encode()


def take(events: Iterator[Event], count: int) -> list[str]:
    return [next(events).id for _ in range(count)]


def test_a_lost_connection_is_resumed_after_what_was_heard(server: Scripted) -> None:
    server.answer(200, b"retry: 1\n\nid: 5-0-0\n\n" + told(6), **STREAM)
    server.answer(503, {"error": "Service Unavailable"})
    server.answer(0, None)
    server.answer(200, told(6) + b": nothing new\nid: 9-0-0\n\n", **STREAM)  # told twice, given once
    server.answer(200, told(10) + told(11), **STREAM)
    with Client() as client:
        assert take(client.events(), 3) == ["6-0-1", "10-0-1", "11-0-1"]
    asked = [request.headers.get("Last-Event-ID") for request in server.requests]
    assert asked == [None, "6-0-1", "6-0-1", "6-0-1", "9-0-0"]
    assert all(request.headers["Accept"] == "text/event-stream" for request in server.requests)


def test_a_block_that_was_cut_off_is_not_given(server: Scripted) -> None:
    server.answer(200, told(6) + told(7)[:40], **STREAM)
    server.answer(200, told(7), **STREAM)
    with Client() as client:
        assert take(client.events(after="5-0-1"), 2) == ["6-0-1", "7-0-1"]
    assert [request.headers["Last-Event-ID"] for request in server.requests] == ["5-0-1", "6-0-1"]


def test_a_gap_is_given_where_it_is(server: Scripted) -> None:
    server.answer(200, b'event: gap\ndata: {"after": "1-0-1"}\n\n' + told(6), **STREAM)
    with Client() as client:
        events = client.events(after="1-0-1")
        assert [next(events).type for _ in range(2)] == ["gap", "running"]


@pytest.mark.parametrize(("status", "error"), [(403, ForbiddenError), (404, NotFoundError)])
def test_a_refusal_ends_it(server: Scripted, status: int, error: type[Exception]) -> None:
    server.answer(status, {"error": "No", "message": "no"})
    with Client() as client, pytest.raises(error):
        next(client.events(JOB_ID))
    assert len(server.requests) == 1


def test_an_outage_is_borne_for_so_long_and_no_longer(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kelpie.client.events.OUTAGE_S", 0.3)
    server.answer(503, {"error": "Service Unavailable"})
    with Client() as client, pytest.raises(UnavailableError, match="away for longer"):
        next(client.events())
    assert len(server.requests) > 1


def test_an_endless_line_is_no_event_stream(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kelpie.client.events.OUTAGE_S", 0.0)
    server.answer(200, b"data: " + b"x" * 2 * MAX_LINE_BYTES, **STREAM)
    with Client() as client, pytest.raises(UnavailableError):
        next(client.events())


def test_without_follow_all_pages_are_read(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kelpie.client.events.PAGE_SIZE", 2)
    server.answer(200, {"_count": 2, "events": [event_wire(1), event_wire(2)], "next": "2-0-1", "gap": False})
    server.answer(200, {"_count": 1, "events": [event_wire(3)], "next": "9-0-0", "gap": False})
    with Client() as client:
        assert [event.id for event in client.events(follow=False)] == ["1-0-1", "2-0-1", "3-0-1"]
    assert server.requests[1].path == "/events?after=2-0-1&page_size=2"


def test_following_a_job_ends_with_it(kelpie: Kelpie, server: Scripted) -> None:
    server.answer(200, told(6) + told(7, "completed", machine_id="node\x1b[2J") + told(8, "purged"), **STREAM)
    said = kelpie("events", "-f", JOB_ID)
    assert said.code == 0
    lines = said.out.splitlines()
    assert len(lines) == 2
    assert "completed" in lines[1]
    assert "\x1b" not in said.out
    assert server.requests[0].path == f"/jobs/{JOB_ID}/events"


def test_events_as_json_are_one_object_per_line(kelpie: Kelpie, server: Scripted) -> None:
    wires = [event_wire(1), event_wire(2)]
    server.answer(200, {"_count": 2, "events": wires, "next": "2-0-1", "gap": True})
    said = kelpie("events", "--json")
    assert [json.loads(line) for line in said.out.splitlines()] == [{"type": "gap"}, *wires]


def delivery_wire(**overrides: Any) -> dict[str, Any]:
    """A delivery as the API describes it."""
    wire = {
        "id": "kelpie-1-1-0",
        "job_id": JOB_ID,
        "event": "completed",
        "url": "https://a.example/hook?***",
        "status": "failed",
        "attempts": [
            {"time": "2026-11-24T00:00:00.000Z", "status_code": None, "error": "it did not answer in time"},
            {"time": "2026-11-24T00:00:05.000Z", "status_code": 204, "error": None},
        ],
        "created": "2026-11-24T00:00:00.000Z",
        "ended": None,
        "next_try": None,
    }
    return wire | overrides


def test_deliveries_are_listed_page_by_page(kelpie: Kelpie, server: Scripted) -> None:
    server.answer(200, {"_count": 1, "deliveries": [delivery_wire()], "next_cursor": "7"})
    server.answer(200, {"_count": 1, "deliveries": [delivery_wire(id="kelpie-1-0-0")], "next_cursor": None})
    said = kelpie("webhooks", "list", "--status", "failed", "--job", JOB_ID)
    assert said.code == 0
    assert "kelpie-1-1-0" in said.out
    assert "kelpie-1-0-0" in said.out
    assert f"job_id={JOB_ID}" in server.requests[0].path
    assert "cursor=7" in server.requests[1].path


def test_a_delivery_is_shown_with_its_tries(kelpie: Kelpie, server: Scripted) -> None:
    server.answer(200, delivery_wire())
    said = kelpie("webhooks", "show", "kelpie-1-1-0")
    assert "it did not answer in time" in said.out
    assert "204" in said.out
    assert json.loads(kelpie("webhooks", "show", "kelpie-1-1-0", "--json").out) == delivery_wire()


def test_no_deliveries_are_said_in_words(kelpie: Kelpie, server: Scripted) -> None:
    server.answer(200, {"_count": 0, "deliveries": [], "next_cursor": None})
    assert kelpie("webhooks", "list").out == "No deliveries.\n"
    assert json.loads(kelpie("webhooks", "list", "--json").out) == []


def test_deliveries_are_replayed(kelpie: Kelpie, server: Scripted) -> None:
    server.answer(202, delivery_wire(status="queued"))
    said = kelpie("webhooks", "replay", "kelpie-1-1-0", "kelpie/../2")
    assert said.code == 0
    assert [(request.method, request.path) for request in server.requests] == [
        ("POST", "/webhooks/deliveries/kelpie-1-1-0/replay"),
        ("POST", "/webhooks/deliveries/kelpie%2F..%2F2/replay"),
    ]


def test_an_unknown_delivery_has_its_exit_code(kelpie: Kelpie, server: Scripted) -> None:
    server.answer(404, {"error": "Not Found", "message": "There is no webhook delivery 'x'."})
    assert kelpie("webhooks", "show", "x").code == 3


def test_a_rotated_secret_is_shown(kelpie: Kelpie, server: Scripted) -> None:
    server.answer(200, {"webhook_secret": "whsec_x", "old_secret_until": "2026-11-25T00:00:00.000Z"})
    assert kelpie("webhooks", "rotate-secret").out == "whsec_x\n"


def test_a_client_follows_through_the_death_of_the_api(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path / "valkey") as broker, ApiServer(broker.url, tmp_path / "api") as server:
        user = server.new_user()
        with Client(server.url, user.key) as client:
            events = client.events(after="0")
            jobs = [user.submit(job_body())["id"] for _ in range(3)]
            heard = [next(events).job_id for _ in range(2)]
            server.kill()
            server.start()
            jobs += [user.submit(job_body())["id"] for _ in range(2)]
            heard += [next(events).job_id for _ in range(3)]
            events.close()
    assert heard == jobs
