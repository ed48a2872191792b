"""The three kinds of credentials and scoped keys over real HTTP, with a real auth service and JWKS URL."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import urllib3
from joserfc.jwk import RSAKey

from kelpie.embedded.valkey import ValkeyServer
from kelpie.http import replies
from kelpie.job import JobStatus
from kelpie.secrets import MASK
from kelpie.store import Store
from kelpie_worker.http_queue import HttpQueue
from tests.api import ApiServer, ApiUser, Reply
from tests.factories import job_body, spec
from tests.identity import AuthService, Service, Signer, service
from tests.system import contract
from tests.system.contract import REPORTS, UNKNOWN
from tests.unit.worker.doubles import settings as worker_settings
from tests.waiting import wait_until

AUDIENCE = "https://kelpie.example"


@dataclass
class World:
    """An API and the services that it asks about credentials."""

    server: ApiServer
    auth: AuthService
    jwks: Service
    signer: Signer
    redis_url: str

    def request(self, method: str, path: str, headers: dict[str, str], **how: Any) -> Reply:
        return ApiUser(self.server, "").request(method, path, headers=headers, anonymous=True, **how)

    def ok(self, method: str, path: str, headers: dict[str, str], **how: Any) -> Any:
        status, _, answer = self.request(method, path, headers, **how)
        assert 200 <= status < 300, (method, path, status, answer)
        return answer

    def organization(self) -> tuple[str, dict[str, str]]:
        """A new organization, and the headers of who has its key."""
        name, key = f"org-{uuid.uuid4().hex[:8]}", f"key-{uuid.uuid4().hex}"
        self.auth.keys[key] = name
        return name, {"Salad-Api-Key": key, "Salad-Organization": name, "Salad-Project": "sims"}

    def node(self, organization: str, machine_id: str = "machine-1", **token: Any) -> dict[str, str]:
        """The headers of a node of an organization."""
        said = {"salad_organization_name": organization, "salad_machine_id": machine_id, "aud": AUDIENCE}
        signed = self.signer.token(**(said | token))
        return {"Authorization": f"Bearer {signed}", "Salad-Project": "sims"}


def settings(auth: Service, jwks: Service) -> dict[str, str]:
    return {
        "KELPIE_AUTH_URL": auth.url,
        "KELPIE_AUTH_USER": "kelpie",
        "KELPIE_AUTH_PASSWORD": "auth-password-of-kelpie",
        "KELPIE_AUTH_TIMEOUT_S": "5",
        "KELPIE_AUTH_REFUSAL_CACHE_S": "0",
        "KELPIE_JWKS_URL": jwks.url,
        "KELPIE_JWKS_RENEW_AFTER_S": "1",
        "KELPIE_JWT_AUDIENCE": AUDIENCE,
        "KELPIE_LOG_LEVEL": "debug",
    }


def start(redis_url: str, directory: Path, **more: str) -> Iterator[World]:
    with service() as auth, service() as jwks:
        signer = Signer("key-1")
        signer.publish(jwks)
        with ApiServer(redis_url, directory, **(settings(auth, jwks) | more)) as server:
            yield World(server, AuthService(auth), jwks, signer, redis_url)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """An API that all tests of this module share, on a Valkey of its own."""
    directory = tmp_path_factory.mktemp("credentials")
    with ValkeyServer(directory / "valkey") as broker:
        yield from start(broker.url, directory)


@pytest.fixture
def own_world(valkey: ValkeyServer, tmp_path: Path) -> Iterator[World]:
    """An API of one test alone, which remembers answers for no time at all while it gets new ones."""
    yield from start(valkey.url, tmp_path, KELPIE_AUTH_CACHE_S="0", KELPIE_AUTH_TIMEOUT_S="0.3")


def refused(reply: Reply, status: int) -> str:
    """What a refusal says."""
    return str(contract.refused(reply, status)["message"])


def work_path(machine_id: str = "machine-1", group: str = "group-1") -> str:
    return f"/work?machine_id={machine_id}&container_group_id={group}"


def report(machine_id: str = "machine-1", **more: Any) -> dict[str, Any]:
    return {"machine_id": machine_id, "container_group_id": "group-1"} | more


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


# ---- a node's own identity


def test_a_node_runs_the_jobs_of_its_organization(world: World) -> None:
    name, owner = world.organization()
    node = world.node(name)
    assert world.ok("GET", work_path(), node) == []
    job = world.ok("POST", "/jobs", owner, json=job_body())
    [leased] = world.ok("GET", work_path(), node)
    assert (leased["id"], leased["user_id"]) == (job["id"], job["user_id"])
    path = f"/jobs/{job['id']}"
    assert world.ok("POST", f"{path}/heartbeat", node, json=report())["status"] == "running"
    assert world.ok("POST", f"{path}/completed", node, json=report(lease=leased["lease"]))
    assert world.ok("GET", path, owner)["status"] == "completed"


def test_a_worker_with_a_token_file_runs_the_jobs_of_its_organization(world: World, tmp_path: Path) -> None:
    name, owner = world.organization()
    token = tmp_path / "token"
    token.write_text(world.node(name)["Authorization"].removeprefix("Bearer "))
    told = worker_settings(
        tmp_path,
        api_url=world.server.url,
        machine_id="machine-1",
        container_group_id="group-1",
        token_file=token,
        salad_project="sims",
    )
    queue = HttpQueue(told)
    assert queue.lease(0) is None
    job = world.ok("POST", "/jobs", owner, json=job_body())
    leased = queue.lease(5)
    assert leased is not None
    assert leased.id == job["id"]
    assert queue.heartbeat(leased).status is JobStatus.RUNNING
    queue.completed(leased)
    queue.close()
    assert world.ok("GET", f"/jobs/{job['id']}", owner)["status"] == "completed"


def test_a_node_that_comes_before_its_organizations_key_speaks_for_the_same_user(world: World) -> None:
    name, owner = world.organization()
    me = world.ok("GET", "/users/me", world.node(name))
    assert world.ok("GET", "/users/me", owner)["id"] == me["id"]
    assert (me["username"], me["machine_id"], me["webhook_secret"]) == (
        f"organization:{name}",
        "machine-1",
        None,
    )


def test_a_node_without_its_project_is_400(world: World) -> None:
    name, _ = world.organization()
    headers = {"Authorization": world.node(name)["Authorization"]}
    assert "Salad-Project" in refused(world.request("GET", work_path(), headers), 400)


def test_a_node_speaks_for_its_own_machine_only(world: World) -> None:
    name, owner = world.organization()
    node = world.node(name)
    job = world.ok("POST", "/jobs", owner, json=job_body())
    assert "machine" in refused(world.request("GET", work_path("machine-2"), node), 403)
    [leased] = world.ok("GET", work_path("machine-2"), world.node(name, "machine-2"))
    for verb in REPORTS:
        for body in (report("machine-2"), report("machine-2", lease=leased["lease"])):
            refused(world.request("POST", f"/jobs/{job['id']}/{verb}", node, json=body), 403)
    assert world.ok("GET", f"/jobs/{job['id']}", owner)["status"] == "running"


@pytest.mark.parametrize("with_lease", [False, True])
def test_a_node_acts_on_no_lease_of_another_machine_even_if_it_knows_the_secret(
    world: World, with_lease: bool
) -> None:
    name, owner = world.organization()
    job = world.ok("POST", "/jobs", owner, json=job_body())
    [leased] = world.ok("GET", work_path("machine-2"), world.node(name, "machine-2"))
    stolen = report(lease=leased["lease"]) if with_lease else report()
    thief = world.node(name)
    assert world.ok("POST", f"/jobs/{job['id']}/heartbeat", thief, json=stolen)["status"] == "canceled"
    for verb in REPORTS[1:]:
        refused(world.request("POST", f"/jobs/{job['id']}/{verb}", thief, json=stolen), 409)
    holder = report("machine-2", lease=leased["lease"])
    world.ok("POST", f"/jobs/{job['id']}/completed", world.node(name, "machine-2"), json=holder)


def test_a_node_reports_on_no_job_that_nobody_holds(world: World) -> None:
    name, owner = world.organization()
    job = world.ok("POST", "/jobs", owner, json=job_body())
    for verb in ("completed", "failed", "released"):
        refused(world.request("POST", f"/jobs/{job['id']}/{verb}", world.node(name), json=report()), 409)
    found = world.ok("GET", f"/jobs/{job['id']}", owner)
    assert (found["status"], found["num_failures"]) == ("pending", 0)
    world.ok("POST", f"/jobs/{job['id']}/completed", owner, json=report())  # its owner may


def test_a_node_sees_nothing_of_other_organizations(world: World) -> None:
    name, _ = world.organization()
    _, owner = world.organization()
    job = world.ok("POST", "/jobs", owner, json=job_body())
    node = world.node(name)
    assert world.ok("GET", work_path(), node) == []
    for verb in REPORTS:
        refused(world.request("POST", f"/jobs/{job['id']}/{verb}", node, json=report(lease="x")), 404)


def test_what_only_works_is_403_everywhere_else(world: World) -> None:
    name, _ = world.organization()
    user = world.server.new_user()
    key = scoped(user, "work")
    for_workers = {("GET", "/work"), ("GET", "/users/me"), ("POST", "/jobs/{job_id}/logs")}
    for_workers |= {("POST", f"/jobs/{{job_id}}/{verb}") for verb in REPORTS}
    for method, template in contract.operations(user):
        path = re.sub(r"\{\w+\}", UNKNOWN, template)
        if (method, template) in for_workers:
            for_workers.remove((method, template))
            continue
        for reply in (
            world.request(method, path, world.node(name)),
            world.request(method, path, world.node(name), body=b"{"),
            key.request(method, path),
        ):
            refused(reply, 403)
    assert not for_workers


def test_a_token_that_is_not_good_is_403(world: World) -> None:
    name, _ = world.organization()
    stranger = Signer("key-1")  # of the same id, but not published
    said = {"salad_organization_name": name, "aud": AUDIENCE}
    now = int(time.time())
    for token in (
        world.signer.token(**said, exp=now - 60),
        world.signer.token(**said, exp=None),
        world.signer.token(**said, nbf=now + 600),
        world.signer.token(**(said | {"aud": "https://other.example"})),
        world.signer.token(**(said | {"aud": None})),
        world.signer.token(**said, salad_machine_id=None),
        world.signer.token(**(said | {"salad_organization_name": None})),
        stranger.token(**said),
        Signer("key-9").token(**said),
        unsigned(world.signer.token(**said)),
        signed_with_the_public_key(world.signer, said | {"exp": now + 60, "salad_machine_id": "machine-1"}),
        world.signer.token(**said)[:-4],
        "x.y.z",
        "x" * 7000,
    ):
        headers = {"Authorization": f"Bearer {token}", "Salad-Project": "sims"}
        message = refused(world.request("GET", work_path(), headers), 403)
        assert token not in message
    assert world.ok("GET", work_path(), world.node(name)) == []


def unsigned(token: str) -> str:
    header = base64.urlsafe_b64encode(b'{"alg":"none","kid":"key-1"}').rstrip(b"=").decode()
    return f"{header}.{token.split('.')[1]}."


def signed_with_the_public_key(signer: Signer, claims: dict[str, Any]) -> str:
    def encoded(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    key = signer.keys["key-1"]
    assert isinstance(key, RSAKey)
    header = json.dumps({"alg": "HS256", "kid": "key-1"}).encode()
    body = f"{encoded(header)}.{encoded(json.dumps(claims).encode())}"
    mac = hmac.new(key.as_pem(private=False), body.encode(), hashlib.sha256).digest()
    return f"{body}.{encoded(mac)}"


@pytest.mark.parametrize("scheme", ["", "Basic ", "Bearer", "Token "])
def test_another_scheme_counts_as_no_credentials(world: World, scheme: str) -> None:
    name, _ = world.organization()
    token = "" if scheme == "Bearer" else world.node(name)["Authorization"].removeprefix("Bearer ")
    headers = {"Authorization": f"{scheme}{token}", "Salad-Project": "sims"}
    refused(world.request("GET", work_path(), headers), 401)


def test_a_new_signing_key_is_accepted_soon_and_guesses_do_not_fetch_the_set(
    own_world: World,
) -> None:
    name, _ = own_world.organization()
    own_world.ok("GET", work_path(), own_world.node(name))
    own_world.signer.add("key-2")
    new = own_world.node(name, kid="key-2")
    wait_until(lambda: own_world.request("GET", work_path(), new)[0] == 200, "the new key is known")
    guesses, before = 40, len(own_world.jwks.asked)
    began = time.monotonic()
    for number in range(guesses):
        guess = Signer.token(Guess(own_world.signer, f"guess-{number}"), aud=AUDIENCE)
        headers = {"Authorization": f"Bearer {guess}", "Salad-Project": "sims"}
        refused(own_world.request("GET", work_path(), headers), 403)
    allowed = 2 * (2 + time.monotonic() - began)  # per process and second
    assert len(own_world.jwks.asked) - before <= allowed


class Guess(Signer):
    """Signs with a key that it has under another id."""

    def __init__(self, of: Signer, kid: str) -> None:
        super().__init__()
        self.keys = {kid: of.keys["key-1"]}


def test_published_keys_that_cannot_be_fetched_are_503_and_never_403(own_world: World) -> None:
    name, _ = own_world.organization()
    own_world.jwks.status = 500
    reply = own_world.request("GET", work_path(), own_world.node(name))
    refused(reply, 503)
    assert int(reply[1]["Retry-After"]) >= 1
    own_world.jwks.status = 200
    own_world.ok("GET", work_path(), own_world.node(name))


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


# ---- scoped keys and their management


def scoped(api: ApiUser, *scopes: str, **more: Any) -> ApiUser:
    """The API as a narrower key of the same user sees it."""
    made = api.ok("POST", "/users/me/keys", json={"scopes": list(scopes), **more})
    return ApiUser(api.server, made["token"], api.user_id)


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
