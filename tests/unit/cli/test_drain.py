"""Emptying nodes from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.unit.cli.conftest import Said, Scripted, job_wire

Kelpie = Callable[..., Said]
DRAINED = {"machine_id": "node-1", "container_group_id": "sims", "since": "2026-11-24T00:00:00.000Z"}


def test_drain_says_where(kelpie: Kelpie, server: Scripted) -> None:
    server.answer(200, {"nodes": [DRAINED]})
    assert kelpie("drain", "node-1", "--queue", "sims") == Said(0, "node-1 is drained in sims\n", "")
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/nodes/drain")
    assert request.body == {"machine_id": "node-1", "container_group_id": "sims"}


def test_drain_waits_until_the_node_holds_nothing(
    kelpie: Kelpie, server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kelpie.cli.drain._POLL_S", 0.001)
    running = {"status": "running", "machine_id": "node-1"}

    def page(*jobs: object) -> dict[str, object]:
        return {"_count": len(jobs), "jobs": list(jobs), "next_cursor": None}

    server.answer(200, {"nodes": [DRAINED]})
    server.answer(200, page(job_wire(**running)))
    server.answer(200, page(job_wire(**running | {"waiting_for": "a free node"}), job_wire(**running)))
    server.answer(200, page(job_wire(**running | {"waiting_for": "a free node"})))
    assert json.loads(kelpie("drain", "node-1", "--wait", "--json").out) == [DRAINED]
    assert len(server.requests) == 4


def test_a_drain_is_undone_and_all_are_listed(kelpie: Kelpie, server: Scripted) -> None:
    server.answer(200, {"container_group_ids": ["sims"]})
    assert kelpie("drain", "node-1", "--undo").out == "node-1 gets jobs again in sims\n"
    server.answers = [(200, {"container_group_ids": []}, {})]
    assert "it was not drained" in kelpie("drain", "node-1", "--undo").out
    server.answers = [(200, {"nodes": [DRAINED | {"machine_id": "\x1b[2J"}]}, {})]
    said = kelpie("drain")
    assert "sims" in said.out
    assert "\x1b" not in said.out


def test_options_without_a_node_are_a_mistake(kelpie: Kelpie, server: Scripted) -> None:
    assert kelpie("drain", "--undo").code == 2
    assert server.requests == []
