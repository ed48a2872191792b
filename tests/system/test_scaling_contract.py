"""Scaling rules and container groups over real HTTP: statuses, names, bounds, and who sees what."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from kelpie.http import scaling_replies
from kelpie.scaling import Demand, GroupState, failed
from kelpie.store import Store
from tests.api import ApiServer, ApiUser, Reply
from tests.factories import job_body
from tests.system.contract import TIME, UNKNOWN, assert_admin_only, refused

UNKNOWN_IDS = [UNKNOWN, "nonsense", "x" * 300, "..%00", "%7Brules%7D"]
NUMBERS = {"min_replicas": 0, "max_replicas": 5, "idle_threshold_seconds": 60}
RULE_NAMES = {
    "id",
    "user_id",
    "org_name",
    "project_name",
    "container_group_id",
    "container_group_name",
    "min_replicas",
    "max_replicas",
    "idle_threshold_seconds",
    "created",
    "updated",
}
RULES, GROUPS = "/scaling-rules", "/container-groups"

ADMIN_ONLY = [
    ("DELETE", RULES),
    ("PUT", f"{GROUPS}/{UNKNOWN}"),
    ("DELETE", f"{GROUPS}/{UNKNOWN}"),
    ("PUT", f"{GROUPS}/{UNKNOWN}/nodes"),
]


@pytest.fixture
def other(api_server: ApiServer) -> ApiUser:
    """Another user of another organization."""
    made = api_server.new_user()
    names = {"org_name": "other org", "project_name": "project"}
    key = api_server.admin().ok("POST", f"/users/{made.user_id}/token", json=names)["token"]
    return ApiUser(api_server, key, made.user_id)


@pytest.fixture
def group(admin: ApiUser) -> str:
    """A container group of the organization and project that new users have."""
    return register(admin)


def register(admin: ApiUser, **overrides: Any) -> str:
    group_id = str(uuid.uuid4())
    body = {"name": "sims", "organization": "org", "project": "project"} | overrides
    status, _, made = admin.request("PUT", f"{GROUPS}/{group_id}", json=body)
    assert status == 201
    scaling_replies.ContainerGroupReply.model_validate(made)
    return group_id


def rule_of(api: ApiUser, group: str, **numbers: Any) -> dict[str, Any]:
    return api.ok("POST", RULES, json={"container_group_id": group} | NUMBERS | numbers)


# ---- credentials


@pytest.mark.parametrize(("method", "path"), ADMIN_ONLY)
def test_what_only_the_admin_may_do_is_403_for_a_user_whatever_the_body(
    api: ApiUser, method: str, path: str
) -> None:
    assert_admin_only(api, method, path)


def test_the_schema_names_every_status_of_making_a_rule(api: ApiUser) -> None:
    create = api.ok("GET", "/openapi.json")["paths"][RULES]["post"]
    assert set(create["responses"]) == {"201", "400", "401", "403", "409", "429", "503"}


# ---- make


def test_a_rule_that_is_made_is_201_and_has_every_documented_name(api: ApiUser, group: str) -> None:
    body = {"container_group_id": group, "min_replicas": 1, "max_replicas": 500} | {
        "idle_threshold_seconds": 3600
    }
    status, headers, rule = api.request("POST", RULES, json=body)
    assert status == 201
    assert headers["Content-Type"] == "application/json"
    scaling_replies.ScalingRuleReply.model_validate(rule)
    assert set(rule) == RULE_NAMES
    assert {name: rule[name] for name in body} == body
    assert (rule["org_name"], rule["project_name"], rule["container_group_name"]) == (
        "org",
        "project",
        "sims",
    )
    assert (rule["id"], rule["user_id"]) == (group, api.user_id)
    assert TIME.match(rule["created"])
    assert rule["updated"] == rule["created"]
    assert api.ok("GET", f"{RULES}/{group}") == rule


def test_unknown_keys_and_a_missing_content_type_are_no_matter(api: ApiUser, group: str) -> None:
    body = f'{{"container_group_id": "{group.upper()}", "min_replicas": 0, "max_replicas": 0, "x": [1],'
    status, _, rule = api.request("POST", RULES + "/", body=body + '"idle_threshold_seconds": 0}')
    assert (status, rule["container_group_id"]) == (201, group)


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"container_group_id": "not-a-uuid"}, "container_group_id"),
        ({"container_group_id": ""}, "container_group_id"),
        ({"container_group_id": "{" + UNKNOWN + "}"}, "container_group_id"),
        ({"container_group_id": UNKNOWN.replace("-", "")}, "container_group_id"),
        ({"container_group_id": 5}, "container_group_id"),
        ({"container_group_id": None}, "container_group_id"),
        ({"container_group_id": UNKNOWN}, "container_group_id"),  # the provider knows none
        ({"min_replicas": -1}, "min_replicas"),
        ({"min_replicas": 501}, "min_replicas"),
        ({"min_replicas": 1.5}, "min_replicas"),
        ({"min_replicas": "1"}, "min_replicas"),
        ({"min_replicas": True}, "min_replicas"),
        ({"min_replicas": None}, "min_replicas"),
        ({"max_replicas": -1}, "max_replicas"),
        ({"max_replicas": 501}, "max_replicas"),
        ({"max_replicas": [5]}, "max_replicas"),
        ({"max_replicas": 10**30}, "max_replicas"),
        ({"idle_threshold_seconds": -1}, "idle_threshold_seconds"),
        ({"idle_threshold_seconds": 3601}, "idle_threshold_seconds"),
        ({"idle_threshold_seconds": "60"}, "idle_threshold_seconds"),
        ({"min_replicas": 6}, ""),  # above the maximum
    ],
)
def test_a_wrong_rule_is_400_and_names_the_field(
    api: ApiUser, group: str, wrong: dict[str, Any], path: str
) -> None:
    body = {"container_group_id": group} | NUMBERS | wrong
    answer = refused(api.request("POST", RULES, json=body), 400, "Invalid Input")
    assert path in [error["path"] for error in answer["errors"]]
    assert api.ok("GET", RULES) == {"_count": 0, "rules": []}


@pytest.mark.parametrize("name", ["container_group_id", *NUMBERS])
def test_every_key_of_a_rule_is_required(api: ApiUser, group: str, name: str) -> None:
    body: dict[str, Any] = {"container_group_id": group} | NUMBERS
    del body[name]
    answer = refused(api.request("POST", RULES, json=body), 400)
    assert [error["path"] for error in answer["errors"]] == [name]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff"])
def test_a_body_that_is_no_object_is_400(api: ApiUser, group: str, body: bytes) -> None:
    rule_of(api, group)
    refused(api.request("POST", RULES, body=body), 400, "Invalid Input")
    refused(api.request("PATCH", f"{RULES}/{group}", body=body), 400, "Invalid Input")


def test_a_second_rule_for_a_group_is_409(
    api: ApiUser, admin: ApiUser, api_server: ApiServer, group: str
) -> None:
    rule = rule_of(api, group)
    body = {"container_group_id": group} | NUMBERS | {"max_replicas": 9}
    for who in (api, admin, api_server.new_user()):
        refused(who.request("POST", RULES, json=body), 409, "Conflict")
    assert api.ok("GET", f"{RULES}/{group}") == rule


def test_a_group_of_another_project_is_as_unknown_as_one_that_does_not_exist(
    api: ApiUser, other: ApiUser, admin: ApiUser, group: str
) -> None:
    body = {"container_group_id": group} | NUMBERS
    theirs = refused(other.request("POST", RULES, json=body), 400)
    none = refused(other.request("POST", RULES, json=body | {"container_group_id": UNKNOWN}), 400)
    assert theirs == none
    rule_of(api, group)
    assert refused(other.request("POST", RULES, json=body), 400) == none  # not 409 either
    elsewhere = register(admin, project="another")
    refused(api.request("POST", RULES, json=body | {"container_group_id": elsewhere}), 400)
    assert admin.request("POST", RULES, json=body | {"container_group_id": elsewhere})[0] == 201


# ---- see and change


def test_rules_are_listed_for_their_user_and_for_the_admin(
    api: ApiUser, other: ApiUser, admin: ApiUser
) -> None:
    rules = [rule_of(api, register(admin)) for _ in range(3)]
    theirs = rule_of(other, register(admin, organization="other org"))
    listed = api.ok("GET", RULES)
    scaling_replies.ScalingRuleListReply.model_validate(listed)
    assert listed["_count"] == 3
    assert sorted(listed["rules"], key=lambda rule: rule["id"]) == sorted(rules, key=lambda rule: rule["id"])
    assert other.ok("GET", RULES + "/") == {"_count": 1, "rules": [theirs]}
    every = admin.ok("GET", RULES)
    assert every["_count"] == len(every["rules"])
    assert {rule["id"] for rule in (*rules, theirs)} <= {rule["id"] for rule in every["rules"]}


@pytest.mark.parametrize(
    "change",
    [
        {"min_replicas": 5},
        {"max_replicas": 500},
        {"idle_threshold_seconds": 0},
        {"min_replicas": 7, "max_replicas": 7},
        {"min_replicas": None, "max_replicas": 3, "unknown": 1},
        {"min_replicas": 1, "max_replicas": 2, "idle_threshold_seconds": 3600, "container_group_id": UNKNOWN},
    ],
)
def test_any_subset_of_a_rules_numbers_can_be_changed(
    api: ApiUser, group: str, change: dict[str, Any]
) -> None:
    rule = rule_of(api, group)
    status, _, changed = api.request("PATCH", f"{RULES}/{group}/", json=change)
    assert status == 200
    scaling_replies.ScalingRuleReply.model_validate(changed)
    given = {name: value for name, value in change.items() if name in NUMBERS and value is not None}
    assert changed == rule | given | {"updated": changed["updated"]}
    assert changed["updated"] >= rule["updated"]
    assert api.ok("GET", f"{RULES}/{group.upper()}") == changed


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"min_replicas": None},
        {"unknown": 1},
        {"min_replicas": 6},
        {"min_replicas": 5, "max_replicas": 4},
        {"max_replicas": 501},
        {"max_replicas": "5"},
        {"min_replicas": False},
        {"idle_threshold_seconds": 3601},
        {"idle_threshold_seconds": -1},
    ],
)
def test_a_wrong_change_is_400_and_changes_nothing(api: ApiUser, group: str, change: dict[str, Any]) -> None:
    rule = rule_of(api, group)
    refused(api.request("PATCH", f"{RULES}/{group}", json=change), 400, "Invalid Input")
    assert api.ok("GET", f"{RULES}/{group}") == rule


def test_a_minimum_above_the_maximum_after_the_change_is_400(api: ApiUser, group: str) -> None:
    rule_of(api, group, min_replicas=3)
    answer = refused(api.request("PATCH", f"{RULES}/{group}", json={"max_replicas": 2}), 400)
    assert [error["path"] for error in answer["errors"]] == ["min_replicas"]


def test_a_deleted_rule_is_204_and_then_404(api: ApiUser, group: str) -> None:
    rule_of(api, group)
    status, _, body = api.request("DELETE", f"{RULES}/{group}/")
    assert (status, body) == (204, "")
    refused(api.request("DELETE", f"{RULES}/{group}"), 404, "Not Found")
    refused(api.request("GET", f"{RULES}/{group}"), 404, "Not Found")
    rule_of(api, group)


@pytest.mark.parametrize("rule_id", UNKNOWN_IDS)
def test_an_unknown_rule_is_404(api: ApiUser, rule_id: str) -> None:
    refused(api.request("GET", f"{RULES}/{rule_id}"), 404, "Not Found")
    refused(api.request("PATCH", f"{RULES}/{rule_id}", json={"max_replicas": 1}), 404, "Not Found")
    refused(api.request("DELETE", f"{RULES}/{rule_id}"), 404, "Not Found")
    refused(api.request("GET", f"{RULES}/{rule_id}/decision"), 404, "Not Found")
    refused(api.request("GET", f"{RULES}/{rule_id}/decisions"), 404, "Not Found")


def test_another_users_rule_does_not_exist(api: ApiUser, api_server: ApiServer, group: str) -> None:
    rule = rule_of(api, group)
    colleague = api_server.new_user()  # of the same organization
    path = f"{RULES}/{group}"
    for reply in (
        colleague.request("GET", path),
        colleague.request("PATCH", path, json={"max_replicas": 1}),
        colleague.request("DELETE", path),
        colleague.request("GET", f"{path}/decision"),
        colleague.request("GET", f"{path}/decisions"),
    ):
        refused(reply, 404, "Not Found")
    assert colleague.ok("GET", RULES) == {"_count": 0, "rules": []}
    assert api.ok("GET", path) == rule


def test_the_admin_sees_changes_and_deletes_everybodys_rules(
    api: ApiUser, other: ApiUser, admin: ApiUser, group: str
) -> None:
    rule = rule_of(api, group)
    assert admin.ok("GET", f"{RULES}/{group}") == rule
    assert admin.ok("PATCH", f"{RULES}/{group}", json={"max_replicas": 1})["user_id"] == api.user_id
    rule_of(other, register(admin, organization="other org"))
    assert admin.request("DELETE", RULES)[0] == 204
    assert admin.ok("GET", RULES) == {"_count": 0, "rules": []}
    assert api.ok("GET", RULES) == {"_count": 0, "rules": []}


def test_with_a_user_end_his_rules_and_another_may_scale_the_group(
    api: ApiUser, admin: ApiUser, api_server: ApiServer, group: str
) -> None:
    rule_of(api, group)
    kept = rule_of(api_server.new_user(), register(admin))
    assert admin.request("DELETE", f"/users/{api.user_id}")[0] == 204
    assert admin.ok("GET", RULES)["rules"] == [kept]
    assert rule_of(api_server.new_user(), group)["container_group_id"] == group


# ---- decisions


def test_a_preview_tells_the_numbers_and_changes_nothing(api: ApiUser, other: ApiUser, group: str) -> None:
    rule_of(api, group, max_replicas=2)
    for _ in range(3):
        api.submit(job_body(container_group_id=group))
        other.submit(job_body(container_group_id=group))  # of another user: they do not count
    api.ok("GET", f"/work?machine_id=n&container_group_id={group}")
    made = api.ok("GET", f"{RULES}/{group}/decision")
    scaling_replies.DecisionReply.model_validate(made)
    expected = {"action": "start", "waiting": 2, "leased": 1, "finished": 0, "eligible": 3, "slots": 1}
    expected |= {"state": "stopped", "replicas": 0, "wanted": 2, "min_replicas": 0, "max_replicas": 2}
    assert {name: made[name] for name in expected} == expected
    assert "the rule allows 2 at most" in made["reason"]
    assert api.ok("GET", f"{GROUPS}/{group}")["replicas"] == 0
    assert api.ok("GET", f"{RULES}/{group}/decisions") == {"_count": 0, "decisions": []}


def test_a_preview_for_a_group_that_is_gone_is_409(api: ApiUser, admin: ApiUser, group: str) -> None:
    rule_of(api, group)
    assert admin.request("DELETE", f"{GROUPS}/{group}")[0] == 204
    refused(api.request("GET", f"{RULES}/{group}/decision"), 409, "Conflict")


@pytest.mark.parametrize("limit", ["0", "201", "x", "-1", "1e3"])
def test_an_absurd_number_of_decisions_is_400(api: ApiUser, group: str, limit: str) -> None:
    rule_of(api, group)
    answer = refused(api.request("GET", f"{RULES}/{group}/decisions?limit={limit}"), 400)
    assert [error["path"] for error in answer["errors"]] == ["limit"]


def test_decisions_are_listed_newest_first(api: ApiUser, api_server: ApiServer, group: str) -> None:
    rule_of(api, group)
    store = Store.connect(api_server.redis_url)
    rule = store.rules.get(group)
    for number in range(3):
        store.rules.record(rule, failed(rule, Demand(number, 0), "ProviderError: 503"), now=number)
    store.close()
    listed = api.ok("GET", f"{RULES}/{group}/decisions?limit=2")
    scaling_replies.DecisionListReply.model_validate(listed)
    assert listed["_count"] == 2
    assert [one["waiting"] for one in listed["decisions"]] == [2, 1]
    assert listed["decisions"][0]["time"] == "1970-01-01T00:00:00.002Z"


# ---- container groups


def test_a_group_is_registered_with_201_and_renamed_with_200(admin: ApiUser) -> None:
    group = register(admin, slots=3)
    status, _, made = admin.request(
        "PUT", f"{GROUPS}/{group.upper()}/", json={"name": "b", "organization": "org", "project": "project"}
    )
    assert (status, made["id"], made["name"], made["slots"]) == (200, group, "b", 1)
    assert (made["state"], made["replicas"], made["current_replicas"]) == ("stopped", 0, None)
    assert TIME.match(made["created"])
    assert admin.ok("GET", f"{GROUPS}/{group}") == made


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"name": None}, "name"),
        ({"name": ""}, "name"),
        ({"name": 5}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"organization": "x" * 129}, "organization"),
        ({"project": ""}, "project"),
        ({"slots": 0}, "slots"),
        ({"slots": "1"}, "slots"),
        ({"slots": 1001}, "slots"),
    ],
)
def test_a_wrong_group_is_400(admin: ApiUser, wrong: dict[str, Any], path: str) -> None:
    body = {"name": "n", "organization": "o", "project": "p"} | wrong
    answer = refused(admin.request("PUT", f"{GROUPS}/{UNKNOWN}", json=body), 400, "Invalid Input")
    assert [error["path"] for error in answer["errors"]] == [path]
    refused(admin.request("GET", f"{GROUPS}/{UNKNOWN}"), 404)


@pytest.mark.parametrize("group_id", [one for one in UNKNOWN_IDS if one != UNKNOWN])
def test_a_groups_id_is_a_uuid(admin: ApiUser, group_id: str) -> None:
    body = {"name": "n", "organization": "o", "project": "p"}
    refused(admin.request("PUT", f"{GROUPS}/{group_id}", json=body), 400, "Invalid Input")


def test_groups_are_seen_in_their_own_project_and_by_the_admin(
    api: ApiUser, other: ApiUser, admin: ApiUser, group: str
) -> None:
    theirs = register(admin, organization="other org")
    mine = api.ok("GET", GROUPS)
    scaling_replies.ContainerGroupListReply.model_validate(mine)
    ids = {one["id"] for one in mine["container_groups"]}
    assert mine["_count"] == len(ids)
    assert group in ids
    assert theirs not in ids
    refused(api.request("GET", f"{GROUPS}/{theirs}"), 404, "Not Found")
    assert other.ok("GET", f"{GROUPS}/{theirs}")["organization"] == "other org"
    assert {group, theirs} <= {one["id"] for one in admin.ok("GET", GROUPS)["container_groups"]}


@pytest.mark.parametrize("group_id", UNKNOWN_IDS)
def test_an_unknown_group_is_404(admin: ApiUser, group_id: str) -> None:
    calls: list[Callable[[], Reply]] = [
        lambda: admin.request("GET", f"{GROUPS}/{group_id}"),
        lambda: admin.request("DELETE", f"{GROUPS}/{group_id}"),
        lambda: admin.request("PUT", f"{GROUPS}/{group_id}/nodes", json={"nodes": []}),
    ]
    for call in calls:
        refused(call(), 404, "Not Found")


def test_a_host_reports_its_nodes_and_hears_what_it_is_to_run(
    api: ApiUser, admin: ApiUser, api_server: ApiServer, group: str
) -> None:
    path = f"{GROUPS}/{group}/nodes"
    status, _, heard = admin.request("PUT", path, json={"nodes": ["a"]})
    assert (status, heard) == (200, {"state": "stopped", "replicas": 0, "reallocate": []})
    store = Store.connect(api_server.redis_url)
    store.groups.scale(group, replicas=3, state=GroupState.RUNNING)
    store.groups.reallocate(group, "b")
    store.close()
    heard = admin.ok("PUT", path, json={"nodes": ["a", "b"]})
    scaling_replies.HostReply.model_validate(heard)
    assert heard == {"state": "running", "replicas": 3, "reallocate": ["b"]}
    assert api.ok("GET", f"{GROUPS}/{group}")["current_replicas"] == 2


@pytest.mark.parametrize("nodes", [None, "a", [5], [""], ["x" * 129], ["a\nb"], ["n"] * 5001])
def test_a_wrong_report_is_400(admin: ApiUser, group: str, nodes: Any) -> None:
    refused(admin.request("PUT", f"{GROUPS}/{group}/nodes", json={"nodes": nodes}), 400, "Invalid Input")
    assert admin.ok("GET", f"{GROUPS}/{group}")["current_replicas"] is None
