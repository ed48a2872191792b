"""kelpie keys."""

from __future__ import annotations

import io
import json

import pytest

from kelpie.cli import exit_codes
from tests.unit.cli.conftest import Run, Scripted


def test_keys_create_makes_a_user_and_shows_the_key(kelpie: Run, server: Scripted) -> None:
    server.answer(201, {"id": "user-2", "username": "alice", "created": "2026-11-24T00:00:00.000Z"})
    server.answer(201, {"token": "klp_new"})
    said = kelpie("keys", "create", "alice", "--project", "p")
    assert (said.code, said.out) == (0, "klp_new\n")
    assert [request.path for request in server.requests] == ["/users", "/users/user-2/token"]
    assert server.requests[1].body == {"org_name": "default", "project_name": "p"}


KEY = {
    "id": "key-1",
    "prefix": "klp_abcdef",
    "name": "nodes",
    "scopes": ["work"],
    "org_name": "o",
    "project_name": "p",
    "created": "2026-11-24T00:00:00.000Z",
    "expires": "2026-12-24T00:00:00.000Z",
    "last_used": None,
}


def test_keys_new_makes_a_narrower_key_of_ones_own(kelpie: Run, server: Scripted) -> None:
    server.answer(201, {"token": "klp_new"} | KEY)
    said = kelpie("keys", "new", "--scope", "work", "--name", "nodes", "--expires", "30d")
    assert (said.code, said.out) == (0, "klp_new\n")
    assert "key-1" in said.err
    assert server.requests[0].path == "/users/me/keys"
    assert server.requests[0].body == {"scopes": ["work"], "name": "nodes", "expires_in_s": 30 * 86_400}
    assert json.loads(kelpie("keys", "new", "--json").out)["key"] == "klp_new"
    assert server.requests[1].body == {}


def test_keys_add_and_create_pass_on_how_far_the_key_reaches(kelpie: Run, server: Scripted) -> None:
    server.answer(201, {"token": "klp_new"})
    assert kelpie("keys", "add", "user/2", "--scope", "work", "--scope", "submit").out == "klp_new\n"
    assert server.requests[0].path == "/users/user%2F2/token"
    assert server.requests[0].body["scopes"] == ["work", "submit"]


@pytest.mark.parametrize("wrong", [("--expires", "soon"), ("--expires", "5"), ("--scope", "all")])
def test_a_wrong_option_of_a_key_is_told_before_anything_is_sent(
    kelpie: Run, server: Scripted, wrong: tuple[str, str]
) -> None:
    said = kelpie("keys", "new", *wrong)
    assert said.code == exit_codes.USAGE
    assert wrong[1] in said.err
    assert server.requests == []


def test_keys_list_shows_what_is_known_of_keys(kelpie: Run, server: Scripted) -> None:
    server.answer(200, {"keys": [KEY, KEY | {"id": "key-2", "scopes": None, "name": "\x1b[31m"}]})
    said = kelpie("keys", "list")
    first, second = said.out.splitlines()[1:]
    assert all(piece in first for piece in ("key-1", "klp_abcdef", "nodes", "work"))
    assert "all" in second
    assert "\x1b" not in said.out
    assert [key["id"] for key in json.loads(kelpie("keys", "list", "--user", "u", "--json").out)] == [
        "key-1",
        "key-2",
    ]
    assert [request.path for request in server.requests] == ["/users/me/keys", "/users/u/keys"]


def test_keys_revoke_ends_a_key(kelpie: Run, server: Scripted) -> None:
    server.answer(204, b"")
    assert kelpie("keys", "revoke", "key-1").code == 0
    assert kelpie("keys", "revoke", "key-1", "--user", "u").code == 0
    assert [(request.method, request.path) for request in server.requests] == [
        ("DELETE", "/users/me/keys/key-1"),
        ("DELETE", "/users/u/keys/key-1"),
    ]
    server.answers.clear()
    server.answer(404, {"error": "Not Found", "message": "There is no API key 'key-1'."})
    said = kelpie("keys", "revoke", "key-1")
    assert (said.code, "key-1" in said.err) == (exit_codes.NOT_FOUND, True)


def test_keys_users_lists_all_of_them(kelpie: Run, server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kelpie.client.keys.PAGE_SIZE", 2)
    users = [
        {"id": f"user-{i}", "username": f"name-{i}", "created": "2026-11-24T00:00:00.000Z"} for i in range(3)
    ]
    server.answer(200, {"_count": 2, "users": users[:2]})
    server.answer(200, {"_count": 1, "users": users[2:]})
    assert [line.split()[1] for line in kelpie("keys", "users").out.splitlines()[1:]] == [
        "name-0",
        "name-1",
        "name-2",
    ]
    assert [request.path for request in server.requests] == [
        "/users?page=1&page_size=2",
        "/users?page=2&page_size=2",
    ]


def test_keys_delete_user_asks_first(kelpie: Run, server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer(204, b"")
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert kelpie("keys", "delete-user", "user-2").code == exit_codes.INTERRUPTED
    assert server.requests == []
    assert kelpie("keys", "delete-user", "user-2", "--yes").code == 0
    assert [(request.method, request.path) for request in server.requests] == [("DELETE", "/users/user-2")]
