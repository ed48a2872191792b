"""A node's own identity: what it may do, and which tokens are good."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import RSAKey

from kelpie.job import JobStatus
from kelpie_worker.http_queue import HttpQueue
from tests.factories import job_body
from tests.identity import Signer
from tests.system import contract
from tests.system.contract import REPORTS, UNKNOWN
from tests.system.world import AUDIENCE, World, refused, report, scoped, work_path
from tests.unit.worker.doubles import settings as worker_settings
from tests.waiting import wait_until


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
