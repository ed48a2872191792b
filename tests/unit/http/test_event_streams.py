"""What a stream of one process tells to a client that has heard of another process already."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from kelpie.http.context import services
from kelpie.store import Store
from kelpie.store.events import BEGINNING
from tests.factories import GROUP, spec


def told(answer: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """The events of a stream."""
    for chunk in answer:
        for line in chunk.decode().splitlines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def test_what_a_client_knows_is_not_told_again_by_a_process_that_lags(
    app: Flask, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = store.users.create("ann")
    key = store.users.create_key(user.id, "org", "project")
    hub = services(app).hub
    monkeypatch.setattr(hub, "_start", lambda: None)  # it reads nothing for now
    hub.follow("somebody else")
    first, second = (store.submit(user.id, [spec(container_group_id=GROUP)])[0].id for _ in range(2))
    history = store.events.page(store.queues(user.id), BEGINNING, store.events.settled_ms(), 10)
    headers = {"X-Kelpie-Key": key, "Accept": "text/event-stream", "Last-Event-ID": str(history[0].position)}
    answer = app.test_client().get("/events", headers=headers, buffered=False)
    [third] = store.submit(user.id, [spec(container_group_id=GROUP)])
    monkeypatch.undo()
    hub.follow("somebody else")  # and now it does
    events = told(answer.iter_encoded())
    assert [history[0].event.job_id, *(next(events)["job_id"] for _ in range(2))] == [first, second, third.id]
    answer.close()
