"""The keys of a platform on one machine: whose they are, and what they can do."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from kelpie.embedded.credentials import Credentials, ensure_user, load_or_create
from kelpie.errors import StartupError
from tests.api import ApiServer, ApiUser
from tests.factories import job_body


@pytest.fixture
def file(tmp_path: Path, api_server: ApiServer) -> Path:
    """Credentials as they are before the first start, of an API that runs already."""
    file = tmp_path / "credentials.json"
    secrets = {"redis_password": "r", "s3_access_key": "a", "s3_secret_key": "s", "user_key": ""}
    file.write_text(json.dumps({"admin_key": api_server.admin_key, **secrets}))
    return file


def test_nodes_have_a_key_that_only_works(file: Path, api_server: ApiServer) -> None:
    made = ensure_user(file, load_or_create(file), api_server.url)
    user, node = ApiUser(api_server, made.user_key), ApiUser(api_server, made.node_key)
    job = user.submit(job_body(container_group_id="up"))
    [leased] = node.ok("GET", "/work?machine_id=n&container_group_id=up")
    assert leased["id"] == job["id"]
    for method, path in (("GET", f"/jobs/{job['id']}"), ("DELETE", f"/jobs/{job['id']}"), ("GET", "/jobs")):
        assert node.request(method, path)[0] == 403
    assert node.request("POST", "/jobs", json=job_body())[0] == 403
    assert load_or_create(file) == made == ensure_user(file, made, api_server.url)


def test_a_file_from_before_nodes_had_a_key_keeps_its_user(file: Path, api_server: ApiServer) -> None:
    first = ensure_user(file, load_or_create(file), api_server.url)
    old = asdict(first)
    del old["node_key"]
    file.write_text(json.dumps(old))
    made = ensure_user(file, load_or_create(file), api_server.url)
    assert made.user_key == first.user_key
    owner = ApiUser(api_server, made.user_key).ok("GET", "/users/me")["id"]
    assert ApiUser(api_server, made.node_key).ok("GET", "/users/me")["id"] == owner


def test_a_key_of_the_nodes_that_was_revoked_is_made_again(file: Path, api_server: ApiServer) -> None:
    first = ensure_user(file, load_or_create(file), api_server.url)
    key_id = ApiUser(api_server, first.node_key).ok("GET", "/users/me")["key_id"]
    ApiUser(api_server, first.user_key).ok("DELETE", f"/users/me/keys/{key_id}")
    made = ensure_user(file, load_or_create(file), api_server.url)
    assert made.user_key == first.user_key
    assert ApiUser(api_server, made.node_key).ok("GET", "/users/me")["scopes"] == ["work"]


@pytest.mark.parametrize("text", ["", "[]", "1", "{}", '"x"', "null"])
def test_a_file_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "credentials.json"
    file.write_text(text)
    with pytest.raises(StartupError, match=r"credentials\.json cannot be read"):
        load_or_create(file)


def test_a_new_file_has_every_secret_that_needs_no_api(tmp_path: Path) -> None:
    made = load_or_create(tmp_path / "credentials.json")
    assert isinstance(made, Credentials)
    assert (made.user_key, made.node_key) == ("", "")
    assert all((made.admin_key, made.redis_password, made.s3_access_key, made.s3_secret_key))
