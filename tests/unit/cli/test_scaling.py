"""``kelpie scaling`` and the client's calls behind it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kelpie import Client
from kelpie.cli import exit_codes
from kelpie.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from tests.unit.cli.conftest import Run, Scripted

GROUP_ID = "0c6b4b6e-2f4a-4c57-9d0e-5b8a2b6f1d3c"
PATH = f"/scaling-rules/{GROUP_ID}"
TIME = "2026-11-24T00:00:00.000Z"
NOT_FOUND = {"error": "Not Found", "message": "There is no such rule."}
TAKEN = {"error": "Conflict", "message": "it has a rule"}


def rule_wire(**overrides: Any) -> dict[str, Any]:
    wire = {
        "id": GROUP_ID,
        "user_id": "user-1",
        "org_name": "org",
        "project_name": "project",
        "container_group_id": GROUP_ID,
        "container_group_name": "sims",
        "min_replicas": 0,
        "max_replicas": 20,
        "idle_threshold_seconds": 300,
        "created": TIME,
        "updated": TIME,
    }
    return wire | overrides


def decision_wire(**overrides: Any) -> dict[str, Any]:
    wire = {
        "action": "scale_out",
        "reason": "20 jobs",
        "waiting": 20,
        "leased": 0,
        "finished": 0,
        "eligible": 20,
        "slots": 1,
        "state": "running",
        "replicas": 3,
        "current": None,
        "wanted": 20,
        "min_replicas": 0,
        "max_replicas": 20,
    }
    return wire | overrides


def group_wire() -> dict[str, Any]:
    return {
        "id": GROUP_ID,
        "name": "sims",
        "organization": "org",
        "project": "project",
        "slots": 2,
        "state": "running",
        "replicas": 3,
        "current_replicas": None,
        "created": TIME,
        "updated": TIME,
    }


def test_list_shows_a_table_or_json(kelpie: Run, server: Scripted) -> None:
    server.answer(200, {"_count": 1, "rules": [rule_wire(container_group_name="a\x1b[31mb")]})
    heading, row = kelpie("scaling", "list").out.splitlines()
    assert heading.split()[:4] == ["id", "group", "min", "max"]
    assert row.split()[:5] == [GROUP_ID, r"a\x1b[31mb", "0", "20", "300"]
    assert json.loads(kelpie("scaling", "list", "--json").out) == [
        rule_wire(container_group_name="a\x1b[31mb")
    ]


def test_nothing_is_said_in_words(kelpie: Run, server: Scripted) -> None:
    server.answer(200, {"_count": 0, "rules": [], "decisions": [], "container_groups": []})
    assert kelpie("scaling", "list").out == "No scaling rules.\n"
    assert kelpie("scaling", "decisions", GROUP_ID).out == "Nothing was decided yet.\n"
    assert kelpie("scaling", "groups").out == "No container groups.\n"


def test_set_changes_the_rule_there_is(kelpie: Run, server: Scripted) -> None:
    server.answer(200, rule_wire())
    said = kelpie("scaling", "set", GROUP_ID, "--max", "20", "--idle", "300", "--json")
    assert (said.code, json.loads(said.out)) == (0, rule_wire())
    [request] = server.requests
    assert (request.method, request.path) == ("PATCH", PATH)
    assert request.body == {"max_replicas": 20, "idle_threshold_seconds": 300}


@pytest.mark.parametrize(
    ("options", "body"),
    [
        ([], {"min_replicas": 0, "max_replicas": 1, "idle_threshold_seconds": 0}),
        (["--min", "3"], {"min_replicas": 3, "max_replicas": 3, "idle_threshold_seconds": 0}),
        (["--max", "0"], {"min_replicas": 0, "max_replicas": 0, "idle_threshold_seconds": 0}),
        (
            ["--min", "1", "--max", "9", "--idle", "60"],
            {"min_replicas": 1, "max_replicas": 9, "idle_threshold_seconds": 60},
        ),
    ],
)
def test_set_makes_the_rule_that_is_missing(
    kelpie: Run, server: Scripted, options: list[str], body: dict[str, int]
) -> None:
    server.answer(404, NOT_FOUND)
    server.answer(201, rule_wire())
    assert kelpie("scaling", "set", GROUP_ID, *options).code == 0
    assert (server.requests[1].method, server.requests[1].path) == ("POST", "/scaling-rules")
    assert server.requests[1].body == {"container_group_id": GROUP_ID, **body}


def test_a_rule_that_was_made_meanwhile_is_changed(server: Scripted) -> None:
    for status, body in ((404, NOT_FOUND), (409, TAKEN), (200, rule_wire())):
        server.answer(status, body)
    with Client() as client:
        assert client.set_scaling_rule(GROUP_ID, max_replicas=20).max_replicas == 20
    assert [request.method for request in server.requests] == ["PATCH", "POST", "PATCH"]


def test_a_rule_of_another_user_is_a_conflict(server: Scripted) -> None:
    for _ in range(3):
        server.answer(404, NOT_FOUND)
        server.answer(409, TAKEN)
    with Client() as client, pytest.raises(ConflictError, match="it has a rule"):
        client.set_scaling_rule(GROUP_ID, max_replicas=20)
    assert len(server.requests) == 6


def test_decisions_say_what_and_why(kelpie: Run, server: Scripted) -> None:
    kept = decision_wire(time=TIME, last=TIME, count=4)
    server.answer(200, {"_count": 1, "decisions": [kept]})
    heading, row = kelpie("scaling", "decisions", GROUP_ID, "--limit", "7").out.splitlines()
    assert heading.split() == ["age", "times", "action", "replicas", "wanted", "reason"]
    assert row.split()[1:] == ["4", "scale_out", "3", "20", "20", "jobs"]
    assert server.requests[0].path == f"{PATH}/decisions?limit=7"
    assert json.loads(kelpie("scaling", "decisions", GROUP_ID, "--json").out) == [kept]


def test_preview_changes_nothing(kelpie: Run, server: Scripted) -> None:
    server.answer(200, decision_wire())
    said = kelpie("scaling", "preview", GROUP_ID)
    assert said.out == "scale_out: 3 replicas, 20 wanted: 20 jobs\n"
    assert json.loads(kelpie("scaling", "preview", GROUP_ID, "--json").out) == decision_wire()
    assert {(request.method, request.path) for request in server.requests} == {("GET", f"{PATH}/decision")}


def test_groups_are_listed_and_registered(kelpie: Run, server: Scripted) -> None:
    server.answer(200, {"_count": 1, "container_groups": [group_wire()]})
    _, row = kelpie("scaling", "groups").out.splitlines()
    assert row.split() == [GROUP_ID, "sims", "org", "project", "running", "3", "–"]
    assert json.loads(kelpie("scaling", "groups", "--json").out) == [group_wire()]
    server.answers.clear()
    server.answer(201, group_wire())
    said = kelpie("scaling", "register", GROUP_ID, "sims", "--organization", "org", "--slots", "2")
    assert said.out == f"{GROUP_ID} sims\n"
    request = server.requests[-1]
    assert (request.method, request.path) == ("PUT", f"/container-groups/{GROUP_ID}")
    assert request.body == {"name": "sims", "organization": "org", "project": "default", "slots": 2}


def test_delete_ends_the_rule(kelpie: Run, server: Scripted) -> None:
    server.answer(0, None)
    server.answer(404, NOT_FOUND)  # the first one, whose answer was lost, did it
    assert kelpie("scaling", "delete", GROUP_ID).code == 0
    assert kelpie("scaling", "delete", GROUP_ID).code == exit_codes.NOT_FOUND
    assert {(request.method, request.path) for request in server.requests} == {("DELETE", PATH)}


@pytest.mark.parametrize(
    "argv",
    [
        ["set"],
        ["set", GROUP_ID, "--min", "501"],
        ["set", GROUP_ID, "--idle", "3601"],
        ["set", GROUP_ID, "--max", "x"],
        ["decisions", GROUP_ID, "--limit", "0"],
        ["register", GROUP_ID],
    ],
)
def test_a_wrong_command_line_is_a_usage_error(kelpie: Run, server: Scripted, argv: list[str]) -> None:
    assert kelpie("scaling", *argv).code == exit_codes.USAGE
    assert server.requests == []


@pytest.mark.parametrize(
    ("status", "kind"), [(400, InvalidInputError), (403, ForbiddenError), (404, NotFoundError)]
)
def test_refusals_of_the_api_are_raised(server: Scripted, status: int, kind: type[Exception]) -> None:
    server.answer(status, {"error": "Refused", "message": "no"})
    with Client() as client:
        for call in (
            lambda: client.scaling_rule(GROUP_ID),
            lambda: client.scaling_preview(GROUP_ID),
            client.container_groups,
            lambda: client.report_nodes(GROUP_ID, []),
            lambda: client.delete_container_group(GROUP_ID),
        ):
            with pytest.raises(kind, match="no"):
                call()


def test_a_host_hears_what_it_is_to_run(server: Scripted) -> None:
    server.answer(200, {"state": "running", "replicas": 3, "reallocate": ["b"]})
    with Client() as client:
        assert client.report_nodes(GROUP_ID, {"b", "a"}) == (3, frozenset({"b"}))
    assert server.requests[0].body == {"nodes": ["a", "b"]}
