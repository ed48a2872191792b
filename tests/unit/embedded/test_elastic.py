"""The host of a local provider's group: what it is told, and which of its nodes may go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kelpie.embedded.elastic import ORGANIZATION, PROJECT, Elastic, is_idle
from kelpie.embedded.options import Autoscale, Options
from kelpie.job import iso
from kelpie.scaling import GroupState
from kelpie.store import Store
from kelpie_worker.state import StateFile
from tests.api import ApiServer, ApiUser
from tests.waiting import wait_until

GROUP_ID = "8d0f5c1a-0d7e-4b6f-8a55-3d9a5f4c2b10"


@pytest.fixture
def user(api_server: ApiServer) -> ApiUser:
    """A user whose key is bound to what `kelpie up` uses."""
    made = api_server.new_user()
    names = {"org_name": ORGANIZATION, "project_name": PROJECT}
    token = api_server.admin().ok("POST", f"/users/{made.user_id}/token", json=names)["token"]
    return ApiUser(api_server, token, made.user_id)


@pytest.fixture
def elastic(api_server: ApiServer) -> Iterator[Elastic]:
    made = Elastic(api_server.url, api_server.admin_key, GROUP_ID)
    yield made
    made.close()
    api_server.admin().ok("DELETE", "/scaling-rules")
    api_server.admin().request("DELETE", f"/container-groups/{GROUP_ID}")


def scale(server: ApiServer, replicas: int) -> None:
    """What the autoscaler does."""
    store = Store.connect(server.redis_url)
    store.groups.scale(GROUP_ID, replicas=replicas, state=GroupState.RUNNING)
    store.close()


def test_it_registers_its_group_and_its_users_rule_and_again(
    api_server: ApiServer, elastic: Elastic, user: ApiUser
) -> None:
    for rule in (Autoscale(max_nodes=3), Autoscale(min_nodes=1, max_nodes=7)):
        elastic.register(user.key, rule)
        [made] = user.ok("GET", "/scaling-rules")["rules"]
        assert (made["container_group_id"], made["user_id"]) == (GROUP_ID, user.user_id)
        assert (made["min_replicas"], made["max_replicas"]) == (rule.min_nodes, rule.max_nodes)


def test_a_rule_of_a_user_whose_key_is_lost_is_taken_over(
    api_server: ApiServer, elastic: Elastic, user: ApiUser
) -> None:
    elastic.register(user.key, Autoscale(max_nodes=3))
    names = {"org_name": ORGANIZATION, "project_name": PROJECT}
    other = api_server.new_user()
    key = api_server.admin().ok("POST", f"/users/{other.user_id}/token", json=names)["token"]
    elastic.register(key, Autoscale(max_nodes=2))
    [made] = api_server.admin().ok("GET", "/scaling-rules")["rules"]
    assert (made["user_id"], made["max_replicas"]) == (other.user_id, 2)


def test_it_hears_what_is_wanted_and_says_what_there_is(
    api_server: ApiServer, elastic: Elastic, user: ApiUser
) -> None:
    elastic.register(user.key, Autoscale())
    assert elastic.exchange(["node-1"]) == (None, frozenset())
    elastic.start()
    wait_until(lambda: elastic.wanted == 0, "it has heard that nothing is wanted")
    scale(api_server, 3)
    wait_until(lambda: elastic.exchange(["node-1", "node-2"])[0] == 3, "it has heard that 3 are wanted")
    path = f"/container-groups/{GROUP_ID}"
    wait_until(lambda: user.ok("GET", path)["current_replicas"] == 2, "the API has heard that there are 2")


def test_what_was_wanted_last_stays_while_the_api_is_away(
    api_server: ApiServer, elastic: Elastic, user: ApiUser, capfd: pytest.CaptureFixture[str]
) -> None:
    elastic.register(user.key, Autoscale())
    scale(api_server, 2)
    elastic.start()
    wait_until(lambda: elastic.wanted == 2, "it has heard that 2 are wanted")
    api_server.admin().ok("DELETE", f"/container-groups/{GROUP_ID}")
    said: list[str] = []
    wait_until(
        lambda: said.append(capfd.readouterr().err) or "cannot be asked" in "".join(said), "it says so"
    )
    assert elastic.wanted == 2
    assert api_server.admin_key not in "".join(said)


def job(**values: Any) -> dict[str, Any]:
    return {"id": "a", "status": "running", "end": None} | values


@pytest.mark.parametrize(
    ("content", "idle"),
    [
        ({"jobs": []}, True),
        ({"jobs": [job(end=iso(1))]}, True),
        ({"jobs": [job()]}, False),
        ({"jobs": [job(exitTime=iso(1), exitCode=0, activeUploads=["out"])]}, False),
        ({"jobs": [job(end=iso(1)), job()]}, False),
        ({}, False),
        ([], False),
        ({"jobs": [{}]}, False),
    ],
)
def test_a_node_is_idle_when_the_data_of_its_last_job_is_through(
    tmp_path: Path, content: Any, idle: bool
) -> None:
    file = tmp_path / "state.json"
    file.write_text(json.dumps(content))
    assert is_idle(file) is idle


def test_a_node_that_has_just_begun_to_start_is_idle_and_an_unreadable_one_is_not(tmp_path: Path) -> None:
    assert is_idle(tmp_path / "state.json")
    (tmp_path / "state.json").write_bytes(b"\xff{")
    assert not is_idle(tmp_path / "state.json")


def test_the_workers_own_state_file_is_understood(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state.json")
    file.open()
    assert is_idle(file.path)
    file.job_started("a")
    assert not is_idle(file.path)
    file.command_exited("a", 0)
    assert not is_idle(file.path)
    file.job_ended("a", completed=True)
    assert is_idle(file.path)
    file.job_started("b")
    file.job_left("b")
    assert is_idle(file.path)
    file.close()


def test_options_go_to_the_guard_and_back() -> None:
    options = Options(data="/d", autoscale=Autoscale(min_nodes=1, max_nodes=9), queue=GROUP_ID)
    assert Options.from_json(options.to_json()) == options
    assert Options.from_json(Options(data="/d").to_json()) == Options(data="/d")
