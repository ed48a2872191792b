"""Keys that may do less than their user, and their management."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
import urllib3

from kelpie.http import replies
from kelpie.job import JobStatus
from kelpie.secrets import MASK
from kelpie.store import Store
from tests.api import ApiUser
from tests.factories import job_body, spec
from tests.system.contract import REPORTS, UNKNOWN
from tests.system.world import World, refused, report, scoped, work_path
from tests.waiting import wait_until


@pytest.fixture
def user(world: World) -> ApiUser:
    return world.server.new_user()


def test_a_user_makes_lists_and_revokes_keys_of_his_own(world: World, user: ApiUser) -> None:
    body = {"scopes": ["work"], "name": "cluster A", "expires_in_s": 3600}
    status, _, made = user.request("POST", "/users/me/keys", json=body)
    assert status == 201
    replies.NewKeyReply.model_validate(made)
    token = made.pop("token")
    assert token.startswith(made["prefix"])
    assert (made["name"], made["scopes"], made["org_name"]) == ("cluster A", ["work"], "org")
    assert made["expires"] > made["created"]
    listed = user.ok("GET", "/users/me/keys")
    replies.KeyListReply.model_validate(listed)
    assert [key["id"] for key in listed["keys"]][1:] == [made["id"]]
    assert listed["keys"][1] == made
    assert listed["keys"][0]["last_used"] is not None
    assert token not in json.dumps(listed)
    narrower = ApiUser(world.server, token)
    me = narrower.ok("GET", "/users/me")
    assert (me["id"], me["scopes"], me["key_id"], me["webhook_secret"]) == (
        user.user_id,
        ["work"],
        made["id"],
        None,
    )
    assert user.request("DELETE", f"/users/me/keys/{made['id']}")[::2] == (204, "")
    for _ in range(20):  # on new connections, so by both processes
        with urllib3.PoolManager() as fresh:
            asked = fresh.request("GET", f"{world.server.url}/users/me", headers={"X-Kelpie-Key": token})
            assert asked.status == 403
    refused(user.request("DELETE", f"/users/me/keys/{made['id']}"), 404)


@pytest.mark.parametrize("how", ["revoked", "deleted"])
def test_a_poll_that_waits_gets_no_job_once_its_key_has_ended(world: World, user: ApiUser, how: str) -> None:
    made = user.ok("POST", "/users/me/keys", json={"scopes": ["work"]})
    node = ApiUser(world.server, made["token"])
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(node.request, "GET", work_path() + "&wait=20")
        wait_until(lambda: user.ok("GET", "/users/me/keys")["keys"][1]["last_used"], "it polls")
        began = time.monotonic()
        if how == "revoked":
            user.ok("DELETE", f"/users/me/keys/{made['id']}")
        else:
            world.server.admin().ok("DELETE", f"/users/{user.user_id}")
        wait_until(lambda: time.monotonic() - began > 5, "what was revoked has ended")
        # of the same user, for a job needs one: the store knows queues by user, whether he exists or not
        with closing(Store.connect(world.redis_url)) as store:
            [job] = store.submit(str(user.user_id), [spec(container_group_id="group-1")])
            assert poll.result()[::2] == (200, [])
            assert store.get(job.id).status is JobStatus.PENDING


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"scopes": []}, "scopes"),
        ({"scopes": ["everything"]}, "scopes.0"),
        ({"scopes": "work"}, "scopes"),
        ({"scopes": [1]}, "scopes.0"),
        ({"scopes": ["work"] * 9}, "scopes"),
        ({"scopes": ["admin"]}, "scopes"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"expires_in_s": 0}, "expires_in_s"),
        ({"expires_in_s": 10**12}, "expires_in_s"),
        ({"expires_in_s": "60"}, "expires_in_s"),
    ],
)
def test_a_wrong_key_is_400_and_named(user: ApiUser, wrong: dict[str, Any], path: str) -> None:
    status, _, body = user.request("POST", "/users/me/keys", json=wrong)
    assert (status, body["errors"][0]["path"]) == (400, path)
    admin = ApiUser(user.server, user.admin_key)
    names = {"org_name": "o", "project_name": "p"}
    status, _, body = admin.request("POST", f"/users/{user.user_id}/token", json=names | wrong)
    assert (status, body["errors"][0]["path"]) == (400, path)
    assert len(user.ok("GET", "/users/me/keys")["keys"]) == 1


def test_a_key_that_may_only_read_sees_no_secrets_and_changes_nothing(user: ApiUser) -> None:
    job = user.submit(job_body(environment={"PASSWORD": "hunter-22"}))
    key = scoped(user, "read")
    assert key.ok("GET", "/jobs")["_count"] == 1
    assert key.job(job["id"])["environment"] == {"PASSWORD": MASK}
    assert key.ok("GET", "/users/me")["webhook_secret"] is None
    assert "scope submit" in refused(key.request("POST", "/jobs", json=job_body()), 403)
    assert "scope submit" in refused(key.request("DELETE", f"/jobs/{job['id']}"), 403)
    refused(key.request("GET", work_path()), 403)
    refused(key.request("GET", "/users/me/keys"), 403)


def test_a_key_that_may_only_submit_does_no_work(user: ApiUser) -> None:
    key = scoped(user, "submit")
    job = key.submit(job_body())
    assert key.ok("GET", "/jobs")["_count"] == 1
    assert "scope work" in refused(key.request("GET", work_path()), 403)
    for verb in REPORTS:
        refused(key.request("POST", f"/jobs/{job['id']}/{verb}", json=report()), 403)
    assert key.ok("GET", "/users/me")["webhook_secret"]
    key.ok("DELETE", f"/jobs/{job['id']}")


def test_a_key_that_may_only_work_ends_no_job_that_it_does_not_hold(user: ApiUser) -> None:
    key = scoped(user, "work")
    job = user.submit(job_body())
    refused(key.request("POST", f"/jobs/{job['id']}/completed", json=report()), 409)
    refused(key.request("POST", f"/jobs/{job['id']}/failed", json=report()), 409)
    assert user.job(job["id"])["num_failures"] == 0
    [leased] = key.ok("GET", work_path("any-machine"))
    body = report("any-machine", lease=leased["lease"])
    assert key.ok("POST", f"/jobs/{job['id']}/heartbeat", json=body)["status"] == "running"
    key.ok("POST", f"/jobs/{job['id']}/completed", json=body)
    assert "scope submit" in refused(key.request("GET", "/jobs"), 403)


def test_a_key_with_both_scopes_does_both_but_manages_no_keys(user: ApiUser) -> None:
    key = scoped(user, "work", "submit")
    job = key.submit(job_body())
    key.ok("POST", f"/jobs/{job['id']}/completed", json=report())  # by hand, as its user may
    for method, path in (
        ("GET", "/users/me/keys"),
        ("POST", "/users/me/keys"),
        ("DELETE", f"/users/me/keys/{UNKNOWN}"),
    ):
        assert "full API key" in refused(key.request(method, path), 403)


def test_a_user_with_a_thousand_keys_is_409_until_he_revokes_one(world: World, user: ApiUser) -> None:
    admin, names = world.server.admin(), {"org_name": "o", "project_name": "p"}
    with closing(Store.connect(world.redis_url)) as store:
        made = [store.users.make_key(str(user.user_id), "o", "p")[1] for _ in range(999)]
    calls = ((user, "/users/me/keys", {}), (admin, f"/users/{user.user_id}/token", names))
    for who, path, body in calls:
        assert "1000 API keys" in refused(who.request("POST", path, json=body), 409)
    user.ok("DELETE", f"/users/me/keys/{made[0].id}")
    assert user.request("POST", "/users/me/keys", json={})[0] == 201


def test_an_organizations_key_and_a_node_make_no_keys(world: World) -> None:
    name, owner = world.organization()
    for headers in (owner, world.node(name)):
        refused(world.request("POST", "/users/me/keys", headers, json={}), 403)


def test_no_key_outlives_the_one_that_made_it(user: ApiUser) -> None:
    made = user.ok("POST", "/users/me/keys", json={"expires_in_s": 3600})
    heir = ApiUser(user.server, made["token"]).ok("POST", "/users/me/keys", json={})
    assert heir["expires"] is not None
    assert heir["expires"] <= made["expires"]


def test_another_users_key_is_404(world: World, user: ApiUser) -> None:
    other = world.server.new_user()
    [key] = other.ok("GET", "/users/me/keys")["keys"]
    refused(user.request("DELETE", f"/users/me/keys/{key['id']}"), 404)
    other.ok("GET", "/users/me")


def test_the_admin_sees_and_ends_the_keys_of_all(world: World, user: ApiUser) -> None:
    admin = world.server.admin()
    names = {"org_name": "o", "project_name": "p", "scopes": ["submit"], "name": "n"}
    token = admin.ok("POST", f"/users/{user.user_id}/token", json=names)["token"]
    key = ApiUser(world.server, token)
    assert key.ok("GET", "/users/me")["scopes"] == ["submit"]
    listed = admin.ok("GET", f"/users/{user.user_id}/keys")
    replies.KeyListReply.model_validate(listed)
    [made] = [one for one in listed["keys"] if one["name"] == "n"]
    assert admin.request("DELETE", f"/users/{user.user_id}/keys/{made['id']}")[0] == 204
    refused(key.request("GET", "/jobs"), 403)
    refused(admin.request("DELETE", f"/users/{user.user_id}/keys/{made['id']}"), 404)
    refused(admin.request("GET", f"/users/{UNKNOWN}/keys"), 404)


def test_the_admin_lists_and_deletes_users(world: World, user: ApiUser) -> None:
    admin = world.server.admin()
    page = admin.ok("GET", "/users?page_size=1000")
    replies.UserPageReply.model_validate(page)
    assert page["_count"] == len(page["users"])
    names = [one["username"] for one in page["users"]]
    assert names == sorted(names)
    assert user.user_id in [one["id"] for one in page["users"]]
    assert [one["username"] for one in admin.ok("GET", "/users?page_size=1&page=2")["users"]] == names[1:2]
    refused(admin.request("GET", "/users?page_size=0"), 400)
    job = user.submit(job_body())
    assert admin.request("DELETE", f"/users/{user.user_id}")[0] == 204
    refused(user.request("GET", "/jobs"), 403)
    assert admin.ok("GET", f"/jobs/{job['id']}")["id"] == job["id"]  # his jobs stay
    refused(admin.request("DELETE", f"/users/{user.user_id}"), 404)
    refused(admin.request("DELETE", "/users/me"), 405)
    refused(admin.request("DELETE", "/users/00000000-0000-0000-0000-000000000000"), 409)


def test_a_key_of_the_admin_is_the_admins_only_with_that_scope(world: World, user: ApiUser) -> None:
    admin = world.server.admin()
    job = user.submit(job_body())
    narrow = scoped(admin, "submit", "work")
    refused(narrow.request("GET", f"/jobs/{job['id']}"), 404)
    assert "scope admin" in refused(narrow.request("GET", "/users"), 403)
    assert narrow.ok("GET", "/users/me")["is_admin"] is False
    steward = scoped(admin, "admin")
    assert steward.ok("GET", "/users")["_count"] > 0
    assert steward.request("DELETE", "/jobs")[0] == 204
    job = user.submit(job_body())
    assert "scope submit" in refused(steward.request("GET", f"/jobs/{job['id']}"), 403)
    both = scoped(admin, "submit", "admin")
    assert both.ok("GET", f"/jobs/{job['id']}")["id"] == job["id"]
    for key in (narrow, steward, both):
        admin.ok("DELETE", f"/users/me/keys/{key.ok('GET', '/users/me')['key_id']}")


def test_the_admins_key_from_the_environment_shows_nothing_of_itself(world: World) -> None:
    admin = world.server.admin()
    [key] = [one for one in admin.ok("GET", "/users/me/keys")["keys"] if one["prefix"] is None]
    assert not any(world.server.admin_key[:6] in str(value) for value in key.values())
