"""What holds for every kind of credentials, and organizations by their keys: with a real auth service."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from kelpie.http import replies
from tests.factories import job_body
from tests.system.world import World, refused, report, scoped, work_path
from tests.waiting import wait_until

# ---- an organization's API key


def test_an_organizations_key_speaks_for_the_one_user_of_the_organization(world: World) -> None:
    name, first = world.organization()
    world.auth.keys["second-" + name] = name
    second = first | {"Salad-Api-Key": "second-" + name, "Salad-Project": "other"}
    me = world.ok("GET", "/users/me", first)
    replies.CallerReply.model_validate(me)
    assert (me["username"], me["org_name"], me["project_name"]) == (f"organization:{name}", name, "sims")
    assert (me["is_admin"], me["scopes"], me["machine_id"]) == (False, None, None)
    assert me["webhook_secret"].startswith("whsec_")
    job = world.ok("POST", "/jobs", first, json=job_body())
    assert job["user_id"] == me["id"]
    seen = world.ok("GET", f"/jobs/{job['id']}", second)
    assert seen | {"waiting_for": None} == job  # what it waits for is told to who looks later
    assert world.ok("GET", "/users/me", second)["id"] == me["id"]
    _, stranger = world.organization()
    refused(world.request("GET", f"/jobs/{job['id']}", stranger), 404)


def test_many_first_requests_at_once_make_one_user_and_few_questions(world: World) -> None:
    _, headers = world.organization()
    before = len(world.auth.service.asked)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: world.ok("GET", "/users/me", headers)["id"], range(48)))
    assert len(set(found)) == 1
    assert len(world.auth.service.asked) - before <= 2  # one per process
    asked = world.auth.service.asked[-1]
    assert asked.headers["authorization"] == (
        "Basic " + base64.b64encode(b"kelpie:auth-password-of-kelpie").decode()
    )
    assert asked.json == {
        "api_key": headers["Salad-Api-Key"],
        "organization_name": headers["Salad-Organization"],
    }


@pytest.mark.parametrize("missing", ["Salad-Organization", "Salad-Project"])
@pytest.mark.parametrize("value", [None, "", "   ", "x" * 129])
def test_a_key_without_its_other_two_headers_is_400(world: World, missing: str, value: str | None) -> None:
    _, headers = world.organization()
    del headers[missing]
    if value is not None:
        headers[missing] = value
    assert missing in refused(world.request("GET", "/jobs", headers), 400)


def test_a_key_that_the_service_does_not_know_is_403(world: World) -> None:
    name, headers = world.organization()
    other, _ = world.organization()
    for wrong in (
        {"Salad-Api-Key": "unknown"},
        {"Salad-Organization": other},
        {"Salad-Organization": "nobody"},
        {"Salad-Api-Key": "x" * 513},
    ):
        refused(world.request("GET", "/jobs", headers | wrong), 403)
    assert world.ok("GET", "/users/me", headers)["org_name"] == name


def test_an_organization_that_is_not_entitled_is_403(own_world: World) -> None:
    _, headers = own_world.organization()
    own_world.auth.entitled = False
    refused(own_world.request("GET", "/jobs", headers), 403)
    own_world.auth.entitled = True
    own_world.ok("GET", "/jobs", headers)


def test_the_first_kind_that_is_shown_counts(world: World) -> None:
    api = world.server.new_user()
    name, headers = world.organization()
    node = world.node(name)
    everything = {"X-Kelpie-Key": api.key, **headers, **node}
    assert world.ok("GET", "/users/me", everything)["id"] == api.user_id
    assert world.ok("GET", "/users/me", headers | node)["scopes"] is None
    assert world.ok("GET", "/users/me", node)["scopes"] == ["work"]
    refused(world.request("GET", "/users/me", everything | {"X-Kelpie-Key": "klp_wrong"}), 403)
    refused(world.request("GET", "/users/me", headers | node | {"Salad-Api-Key": "wrong"}), 403)
    assert world.ok("GET", "/users/me", everything | {"X-Kelpie-Key": ""})["org_name"] == name


def test_the_name_of_an_organizations_user_cannot_be_taken(world: World) -> None:
    name, headers = world.organization()
    admin = world.server.admin()
    refused(admin.request("POST", "/users", json={"username": f"organization:{name}"}), 400)
    admin.ok("POST", "/users", json={"username": name})
    assert world.ok("GET", "/users/me", headers)["username"] == f"organization:{name}"


def test_an_organization_that_took_over_a_name_is_403_until_the_admin_has_cleared_it(
    own_world: World,
) -> None:
    name, headers = own_world.organization()
    job = own_world.ok("POST", "/jobs", headers, json=job_body())
    own_world.auth.ids[name] = "another organization of that name"
    assert "another organization" in refused(own_world.request("GET", f"/jobs/{job['id']}", headers), 403)
    own_world.server.admin().ok("DELETE", f"/users/{job['user_id']}")
    refused(own_world.request("GET", f"/jobs/{job['id']}", headers), 404)
    assert own_world.ok("GET", "/jobs", headers)["jobs"] == []


def test_deleting_all_users_ends_what_is_remembered_of_organizations(world: World) -> None:
    admin, api = world.server.admin(), world.server.new_user()
    _, headers = world.organization()
    job = world.ok("POST", "/jobs", headers, json=job_body())
    before = len(world.auth.service.asked)
    world.ok("GET", "/jobs", headers)
    assert len(world.auth.service.asked) <= before + 1  # remembered, at least by the process that was asked
    admin.ok("DELETE", "/users")
    refused(api.request("GET", "/users/me"), 403)
    before = len(world.auth.service.asked)
    assert world.ok("GET", "/users/me", headers)["id"] != job["user_id"]
    assert len(world.auth.service.asked) == before + 1
    refused(world.request("GET", f"/jobs/{job['id']}", headers), 404)
    assert admin.ok("GET", "/users/me")["is_admin"]


# ---- the auth service fails


def test_a_failing_auth_service_is_503_and_never_403(own_world: World) -> None:
    _, headers = own_world.organization()
    at = own_world.auth.service
    good = at.answer
    for failing in (
        {"status": 500},
        {"status": 401},  # it is we whom it does not know
        {"status": 307, "headers": {"Location": at.url}},
        {"answer": lambda _: b"<html>"},
        {"answer": lambda _: b'"' + b"x" * 2**20 + b'"'},
    ):
        at.status, at.headers, at.answer = 200, {}, good
        for name, value in failing.items():
            setattr(at, name, value)
        reply = own_world.request("GET", "/jobs", headers)
        message = refused(reply, 503)
        assert int(reply[1]["Retry-After"]) >= 1
        assert at.url not in message
        own_world.server.admin().ok("GET", "/jobs")  # nobody else is touched
    at.status, at.headers, at.answer = 200, {}, good
    own_world.ok("GET", "/jobs", headers)


def test_what_was_good_survives_an_outage(own_world: World) -> None:
    _, headers = own_world.organization()
    other = own_world.organization()[1]
    own_world.ok("GET", "/jobs", headers)  # the same connection, hence the same process, from here on
    own_world.auth.service.status = 500
    for _ in range(3):
        own_world.ok("GET", "/jobs", headers)
    refused(own_world.request("GET", "/jobs", other), 503)


def test_a_silent_auth_service_holds_up_nobody_else(world: World) -> None:
    api = world.server.new_user()
    _, known = world.organization()
    world.ok("GET", "/jobs", known)
    _, unknown = world.organization()
    at, before = world.auth.service, len(world.auth.service.asked)
    at.going.clear()
    try:
        with ThreadPoolExecutor(8) as pool:
            held = [pool.submit(world.request, "GET", "/jobs", unknown) for _ in range(8)]
            wait_until(lambda: len(at.asked) > before, "the service is asked")
            for _ in range(20):
                api.ok("GET", "/jobs")
            assert not any(one.done() for one in held)
            at.going.set()
            assert [one.result()[0] for one in held] == [200] * 8
    finally:
        at.going.set()


def test_a_service_that_never_answers_is_503_in_the_end(own_world: World) -> None:
    _, headers = own_world.organization()
    own_world.auth.service.going.clear()
    refused(own_world.request("GET", "/jobs", headers), 503)


# ---- all kinds


def test_no_credential_is_accepted_as_one_of_another_kind(world: World) -> None:
    name, owner = world.organization()
    node = world.node(name)
    token = node["Authorization"].removeprefix("Bearer ")
    world.ok("GET", work_path(), node)
    world.ok("GET", "/jobs", owner)
    key = world.server.new_user().key
    for piece in (token, name, "machine-1", "workload-1", owner["Salad-Api-Key"], f"organization:{name}"):
        refused(world.request("GET", "/jobs", {"X-Kelpie-Key": piece}), 403)
    for piece in (token, name, "machine-1", "workload-1", key):
        refused(world.request("GET", "/jobs", owner | {"Salad-Api-Key": piece}), 403)
    for piece in (owner["Salad-Api-Key"], key, name):
        bearer = {"Authorization": f"Bearer {piece}", "Salad-Project": "sims"}
        refused(world.request("GET", work_path(), bearer), 403)


def test_no_secret_is_written_into_redis_or_the_log(world: World) -> None:
    name, owner = world.organization()
    node, api = world.node(name), world.server.new_user()
    world.ok("POST", "/jobs", owner, json=job_body())
    [leased] = world.ok("GET", work_path(), node)
    world.ok("POST", f"/jobs/{leased['id']}/heartbeat", node, json=report(lease=leased["lease"]))
    api.ok("GET", "/jobs")
    world.request("GET", "/jobs", owner | {"Salad-Api-Key": "a-wrong-key-of-someone"})
    world.request("GET", "/jobs", {"X-Kelpie-Key": "klp_a-wrong-key-of-someone-else"})
    secrets = [
        owner["Salad-Api-Key"],
        node["Authorization"].removeprefix("Bearer "),
        api.key,
        scoped(api, "work").key,
        leased["lease"].partition(".")[2],
        world.server.admin_key,
        "auth-password-of-kelpie",
        "a-wrong-key-of-someone",
    ]
    with redis.Redis.from_url(world.redis_url) as client:
        dump = b"\n".join(
            piece for key in client.scan_iter(count=1000) for piece in (key, *values_of(client, key))
        )
    log = world.server.log.read_bytes()
    assert b"organization:" in dump
    assert b'"request"' in log
    for secret in secrets:
        assert secret.encode() not in dump
        assert secret.encode() not in log


def values_of(client: redis.Redis, key: bytes) -> list[bytes]:
    kind = client.type(key)
    if kind == b"hash":
        return [piece for pair in client.hgetall(key).items() for piece in pair]
    if kind == b"set":
        return list(client.smembers(key))
    if kind == b"zset":
        return list(client.zrange(key, 0, -1))
    if kind == b"list":
        return list(client.lrange(key, 0, -1))
    if kind == b"stream":
        return [piece for _, fields in client.xrange(key) for pair in fields.items() for piece in pair]
    return [client.get(key) or b""]


def test_the_schema_tells_all_three_kinds(world: World) -> None:
    schema = world.ok("GET", "/openapi.json", {})
    schemes = schema["components"]["securitySchemes"]
    assert {one.get("name", one["type"]) for one in schemes.values()} == {
        "X-Kelpie-Key",
        "Salad-Api-Key",
        "Salad-Organization",
        "Salad-Project",
        "http",
    }
    assert len(schema["security"]) == 3
    assert all(name in schemes for kind in schema["security"] for name in kind)
