"""What every caller of the API finds: refusals, lists, ends of jobs, users, pages, the schema."""

from __future__ import annotations

import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from openapi_spec_validator import validate

from kelpie.http import replies
from tests.api import ApiServer, ApiUser
from tests.factories import job_body
from tests.system.contract import (
    REPORTS,
    TIME,
    UNKNOWN,
    UNKNOWN_IDS,
    assert_admin_only,
    lease,
    leased,
    operations,
    refused,
    report,
)
from tests.waiting import wait_until

# ---- credentials

ADMIN_ONLY = [
    ("DELETE", "/jobs"),
    ("POST", "/users"),
    ("POST", f"/users/{UNKNOWN}/token"),
    ("GET", "/users"),
    ("GET", f"/users/{UNKNOWN}/keys"),
    ("DELETE", f"/users/{UNKNOWN}/keys/{UNKNOWN}"),
    ("DELETE", f"/users/{UNKNOWN}"),
    ("DELETE", "/users"),
]


def test_every_route_but_those_of_health_is_401_without_credentials_and_403_with_an_unknown_key(
    api: ApiUser,
) -> None:
    routes = operations(api)
    for method, template in routes:
        path = re.sub(r"\{\w+\}", UNKNOWN, template)
        refused(api.request(method, path, anonymous=True), 401, "Unauthorized")
        refused(api.request(method, path, headers={"X-Kelpie-Key": ""}), 401, "Unauthorized")
        refused(api.request(method, path, key="klp_" + "0" * 40), 403, "Forbidden")
        refused(api.request(method, path, key="x" * 5000), 403, "Forbidden")
    assert len(routes) > 40


@pytest.mark.parametrize(("method", "path"), ADMIN_ONLY)
def test_what_only_the_admin_may_do_is_403_for_a_user_whatever_the_body(
    api: ApiUser, method: str, path: str
) -> None:
    assert_admin_only(api, method, path)


def test_credentials_that_are_not_known_here_count_as_none(api: ApiUser) -> None:
    salad = {"Salad-Api-Key": "k", "Salad-Organization": "o", "Salad-Project": "p"}
    refused(api.request("GET", "/jobs", anonymous=True, headers=salad), 401)
    refused(api.request("GET", "/jobs", anonymous=True, headers={"Authorization": "Bearer x.y.z"}), 401)


# ---- list, get


def test_the_list_pages_filters_and_orders(api: ApiUser, group: str) -> None:
    ids = [api.submit(job_body(container_group_id=group))["id"] for _ in range(5)]
    elsewhere = api.submit(job_body(container_group_id=f"{group}-b"))["id"]
    running = lease(api, group)
    assert running is not None

    def listed(query: str) -> list[str]:
        page = api.ok("GET", f"/jobs?{query}")
        replies.JobPageReply.model_validate(page)
        assert page["_count"] == len(page["jobs"])
        return [job["id"] for job in page["jobs"]]

    assert listed("asc=true") == [*ids, elsewhere]
    assert listed("") == [elsewhere, *reversed(ids)]
    assert listed("asc=false&page_size=2&page=2") == [ids[3], ids[2]]
    assert listed("page_size=2&page=9") == []
    assert listed("page=0&page_size=1") == listed("page=-5&page_size=1") == [elsewhere]
    assert listed(f"container_group_id={group}&asc=true") == ids
    assert listed("status=running") == [running["id"]]
    assert listed(f"status=pending&container_group_id={group}&asc=true") == ids[1:]
    assert listed("status=failed") == []


@pytest.mark.parametrize(
    "query",
    [
        "status=lost",
        "page_size=0",
        "page_size=1001",
        f"page_size={10**30}",
        "page=x",
        f"page={10**30}",
        "asc=2",
    ],
)
def test_a_wrong_query_is_400(api: ApiUser, query: str) -> None:
    body = refused(api.request("GET", f"/jobs?{query}"), 400, "Invalid Input")
    assert body["errors"][0]["path"] == query.split("=")[0]


def test_an_empty_parameter_is_an_absent_one(api: ApiUser, group: str) -> None:
    job = api.submit(job_body(container_group_id=group))
    everything = api.ok("GET", "/jobs")
    for name in ("status", "container_group_id", "page_size", "page", "asc", "cursor", "label", "q"):
        assert api.ok("GET", f"/jobs?{name}=") == everything, name
    assert api.ok("GET", "/jobs?status=&container_group_id=&page_size=&page=&asc=") == everything
    assert api.ok("GET", "/jobs?status=&status=running")["jobs"] == []
    assert api.ok("GET", f"/jobs/{job['id']}?expand=") == everything["jobs"][0]
    assert api.ok("DELETE", f"/jobs/{job['id']}?purge=") == {"message": "Job canceled"}
    assert api.ok("GET", f"/work?machine_id=n&container_group_id={group}&wait=") == []


@pytest.mark.parametrize("job_id", UNKNOWN_IDS)
def test_an_unknown_job_is_404_for_every_call(api: ApiUser, job_id: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("DELETE", "?purge=true")):
        refused(api.request(method, f"/jobs/{job_id}{path}"), 404, "Not Found")
    for name in REPORTS:
        refused(api.request("POST", f"/jobs/{job_id}/{name}", json=report("g")), 404, "Not Found")


def test_another_users_job_is_404_for_every_call_and_stays_as_it_is(
    api: ApiUser, other: ApiUser, group: str
) -> None:
    job = leased(api, group)
    for method, path in (("GET", ""), ("DELETE", ""), ("DELETE", "?purge=true")):
        refused(other.request(method, f"/jobs/{job['id']}{path}"), 404, "Not Found")
    for name in REPORTS:
        stolen = report(group, lease=job["lease"])
        refused(other.request("POST", f"/jobs/{job['id']}/{name}", json=stolen), 404, "Not Found")
    assert other.ok("GET", "/jobs")["jobs"] == []
    assert api.job(job["id"])["status"] == "running"


def test_the_admin_sees_and_cancels_the_jobs_of_all(api: ApiUser, admin: ApiUser, group: str) -> None:
    job = api.submit(job_body(container_group_id=group))
    assert admin.ok("GET", f"/jobs/{job['id']}") == api.ok("GET", f"/jobs/{job['id']}")
    assert [found["id"] for found in admin.ok("GET", f"/jobs?container_group_id={group}")["jobs"]] == [
        job["id"]
    ]
    admin.ok("DELETE", f"/jobs/{job['id']}")
    assert api.job(job["id"])["status"] == "canceled"


def test_expand_adds_the_attempts_oldest_first(api: ApiUser, group: str) -> None:
    job = leased(api, group, "node-1")
    api.ok("POST", f"/jobs/{job['id']}/failed", json=report(group, exit_code=3, reason="boom"))
    assert lease(api, group, "node-2") is not None
    found = api.job(job["id"])
    replies.JobReply.model_validate(found)
    first, second = found["attempts"]
    assert (first["attempt"], first["machine_id"], first["outcome"]) == (1, "node-1", "app_failed")
    assert (first["exit_code"], first["reason"]) == (3, "boom")
    assert (second["attempt"], second["machine_id"], second["end"]) == (2, "node-2", None)
    assert "attempts" not in api.ok("GET", f"/jobs/{job['id']}")
    refused(api.request("GET", f"/jobs/{job['id']}?expand=everything"), 400)


def test_how_a_job_ended_and_when_stands_under_the_name_of_its_status(api: ApiUser, group: str) -> None:
    for end in ("completed", "failed", "canceled"):
        job = leased(api, group, "node-of-" + end, max_failures=1)
        call = ("DELETE", f"/jobs/{job['id']}") if end == "canceled" else ("POST", f"/jobs/{job['id']}/{end}")
        api.ok(*call, json=report(group, "node-of-" + end))
        ended = api.job(job["id"])
        assert ended["status"] == end
        times = {name: ended[name] for name in ("completed", "failed", "canceled")}
        assert [name for name, time in times.items() if time is not None] == [end]
        assert ended["created"] <= ended["started"] <= ended[end]
        assert TIME.match(ended[end])


# ---- cancel, delete


def test_cancel_is_202_and_harmless_when_repeated(api: ApiUser, group: str) -> None:
    job = api.submit(job_body(container_group_id=group))
    for _ in range(2):
        status, _, body = api.request("DELETE", f"/jobs/{job['id']}")
        assert (status, body) == (202, {"message": "Job canceled"})
    assert api.job(job["id"])["status"] == "canceled"
    assert lease(api, group) is None


@pytest.mark.parametrize("end", ["completed", "failed"])
def test_cancel_of_an_ended_job_is_409_and_changes_nothing(api: ApiUser, group: str, end: str) -> None:
    job = leased(api, group, max_failures=1)
    api.ok("POST", f"/jobs/{job['id']}/{end}", json=report(group))
    refused(api.request("DELETE", f"/jobs/{job['id']}"), 409, "Conflict")
    assert api.job(job["id"])["status"] == end


def test_purge_is_200_and_then_the_job_is_unknown(api: ApiUser, group: str) -> None:
    job = leased(api, group)
    status, _, _ = api.request("DELETE", f"/jobs/{job['id']}?purge=true")
    assert status == 200
    refused(api.request("GET", f"/jobs/{job['id']}"), 404)
    refused(api.request("POST", f"/jobs/{job['id']}/completed", json=report(group, lease=job["lease"])), 404)


def test_clearing_a_group_removes_pending_jobs_and_cancels_running_ones(
    api: ApiUser, other: ApiUser, group: str
) -> None:
    running = leased(api, group)
    pending = [api.submit(job_body(container_group_id=group))["id"] for _ in range(2)]
    theirs = other.submit(job_body(container_group_id=group))
    assert api.request("DELETE", f"/jobs/container-groups/{group}")[::2] == (200, {"count": 3})
    assert api.job(running["id"])["status"] == "canceled"
    for job_id in pending:
        refused(api.request("GET", f"/jobs/{job_id}"), 404)
    assert other.job(theirs["id"])["status"] == "pending"
    assert api.ok("DELETE", f"/jobs/container-groups/{group}") == {"count": 0}


# ---- users


def test_the_admin_makes_users_and_keys(api_server: ApiServer, admin: ApiUser) -> None:
    name = f"ada-{uuid.uuid4().hex[:6]}"
    status, _, user = admin.request("POST", "/users", json={"username": name})
    assert (status, set(user)) == (201, {"id", "username", "created"})
    assert (user["username"], bool(TIME.match(user["created"]))) == (name, True)
    refused(admin.request("POST", "/users", json={"username": name}), 400, "Invalid Input")
    names = {"org_name": "o", "project_name": "p"}
    status, _, made = admin.request("POST", f"/users/{user['id']}/token", json=names)
    assert status == 201
    assert list(made) == ["token"]
    me = ApiUser(api_server, made["token"]).ok("GET", "/users/me")
    replies.CallerReply.model_validate(me)
    assert (me["id"], me["username"], me["org_name"], me["project_name"]) == (user["id"], name, "o", "p")
    assert me["is_admin"] is False
    assert me["webhook_secret"].startswith("whsec_")
    own = admin.ok("GET", "/users/me")
    assert (own["id"], own["is_admin"]) == ("00000000-0000-0000-0000-000000000000", True)


@pytest.mark.parametrize(
    "body", [{}, {"username": ""}, {"username": 5}, {"username": "x" * 129}, {"username": "a\n"}]
)
def test_a_wrong_user_is_400(admin: ApiUser, body: dict[str, Any]) -> None:
    assert refused(admin.request("POST", "/users", json=body), 400)["errors"][0]["path"] == "username"


def test_a_key_for_nobody_is_404_and_without_names_400(admin: ApiUser, api: ApiUser) -> None:
    names = {"org_name": "o", "project_name": "p"}
    refused(admin.request("POST", f"/users/{uuid.uuid4()}/token", json=names), 404)
    refused(admin.request("POST", "/users/nonsense/token", json=names), 404)
    refused(admin.request("POST", f"/users/{api.user_id}/token", json={"org_name": "o"}), 400)


# ---- what is common to all


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/jobs/a/b/c", "/scaling-rule", "/jobs//x//", "/job", "/docs/nothing", "/static/nothing"],
)
def test_an_unknown_route_is_404_as_json(api: ApiUser, path: str) -> None:
    refused(api.request("GET", path), 404, "Route Not Found")
    refused(api.request("GET", path, anonymous=True), 404, "Route Not Found")


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/jobs"), ("POST", "/work"), ("PATCH", "/jobs/x"), ("PUT", "/users")]
)
def test_a_method_that_a_path_does_not_know_is_405_as_json(api: ApiUser, method: str, path: str) -> None:
    refused(api.request(method, path), 405)
    assert api.request(method, path)[1]["Allow"]


def test_a_head_that_is_too_long_is_refused_as_json(api: ApiUser) -> None:
    refused(api.request("GET", "/jobs?" + "x" * 10_000), 414)
    refused(api.request("GET", "/jobs", headers={"X-Long": "x" * 10_000}), 431)


@pytest.mark.parametrize("path", ["/jobs/", "/users/me/", "/healthz/", "/jobs/?page_size=1"])
def test_a_trailing_slash_is_accepted(api: ApiUser, path: str) -> None:
    assert api.request("GET", path)[0] == 200


@pytest.mark.parametrize("path", ["/jobs", "/work", f"/jobs/{UNKNOWN}/heartbeat"])
def test_browsers_may_ask_first(api: ApiUser, path: str) -> None:
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    status, headers, _ = api.request("OPTIONS", path, anonymous=True, headers=asked)
    assert status == 204
    assert "Content-Type" not in headers
    assert headers["Access-Control-Allow-Origin"] == "*"
    methods = headers["Access-Control-Allow-Methods"].split(", ")
    assert methods == ["GET", "POST", "PATCH", "DELETE"]
    assert "X-Kelpie-Key" in headers["Access-Control-Allow-Headers"]


def test_browsers_may_read_answers_and_refusals(api: ApiUser) -> None:
    for anonymous in (True, False):
        _, headers, _ = api.request(
            "GET", "/jobs", anonymous=anonymous, headers={"Origin": "https://a.example"}
        )
        assert headers["Access-Control-Allow-Origin"] == "*"


def test_answers_are_kept_by_no_cache_and_guessed_as_nothing_else(api: ApiUser) -> None:
    _, headers, _ = api.request("GET", "/jobs")
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Request-Id"]


def test_connections_are_kept_alive(api: ApiUser) -> None:
    import urllib3

    with urllib3.HTTPConnectionPool("127.0.0.1", api.server.port, maxsize=1, block=True) as pool:
        for _ in range(3):
            assert pool.request("GET", "/healthz").status == 200
        assert pool.num_connections == 1


def test_health_needs_no_credentials(api: ApiUser) -> None:
    for path in ("/healthz", "/readyz"):
        assert api.request("GET", path, anonymous=True)[::2] == (200, {"status": "ok"})


def test_the_schema_is_valid_openapi_and_describes_every_route(api: ApiUser) -> None:
    status, headers, schema = api.request("GET", "/openapi.json", anonymous=True)
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert schema["openapi"].startswith("3.1")
    validate(schema)
    described = {(method.upper(), path) for path, item in schema["paths"].items() for method in item}
    assert described == {
        ("POST", "/jobs"),
        ("GET", "/jobs"),
        ("DELETE", "/jobs"),
        ("POST", "/jobs/batch"),
        ("GET", "/jobs/{job_id}"),
        ("DELETE", "/jobs/{job_id}"),
        ("DELETE", "/jobs/container-groups/{container_group_id}"),
        ("GET", "/work"),
        *(("POST", f"/jobs/{{job_id}}/{name}") for name in REPORTS),
        *(
            ("POST", f"/jobs/{{job_id}}/{name}")
            for name in ("hold", "resume", "requeue", "unban", "prioritize")
        ),
        ("POST", "/users"),
        ("DELETE", "/users"),
        ("GET", "/users"),
        ("DELETE", "/users/{user_id}"),
        ("POST", "/users/{user_id}/token"),
        ("GET", "/users/{user_id}/keys"),
        ("DELETE", "/users/{user_id}/keys/{key_id}"),
        ("GET", "/users/me"),
        *((method, "/scaling-rules") for method in ("POST", "GET", "DELETE")),
        *((method, "/scaling-rules/{rule_id}") for method in ("GET", "PATCH", "DELETE")),
        ("GET", "/scaling-rules/{rule_id}/decision"),
        ("GET", "/scaling-rules/{rule_id}/decisions"),
        ("GET", "/container-groups"),
        *((method, "/container-groups/{group_id}") for method in ("PUT", "GET", "DELETE")),
        ("PUT", "/container-groups/{group_id}/nodes"),
        ("GET", "/users/me/keys"),
        ("POST", "/users/me/keys"),
        ("DELETE", "/users/me/keys/{key_id}"),
        ("POST", "/users/me/webhook-secret/rotate"),
        ("GET", "/events"),
        ("GET", "/jobs/{job_id}/events"),
        ("GET", "/jobs/{job_id}/logs"),
        ("POST", "/jobs/{job_id}/logs"),
        ("POST", "/nodes/drain"),
        ("POST", "/nodes/resume"),
        ("GET", "/nodes/drained"),
        ("GET", "/webhooks/deliveries"),
        ("GET", "/webhooks/deliveries/{delivery_id}"),
        ("POST", "/webhooks/deliveries/{delivery_id}/replay"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
    }


@pytest.mark.parametrize("path", ["/", "/docs", "/docs/"])
def test_pages_load_nothing_from_elsewhere_and_run_nothing_inline(api: ApiUser, path: str) -> None:
    status, headers, html = api.request("GET", path, anonymous=True)
    assert status == 200
    assert headers["Content-Type"].startswith("text/html")
    loaded = re.findall(r'(?:src|href|data-openapi)="([^"]*)"', html)
    assert loaded
    for url in loaded:
        assert re.match(r"/[^/]|/$", url), url
        assert api.request("GET", url, anonymous=True)[0] == 200
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", html)
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"


def test_the_landing_page_names_the_version_and_the_first_commands(api: ApiUser) -> None:
    import kelpie

    _, _, html = api.request("GET", "/", anonymous=True)
    assert kelpie.__version__ in html
    assert "kelpie submit" in html
    assert api.url in html


# ---- the admin's great broom, on a server of its own


@pytest.fixture
def own_server(valkey: Any, tmp_path: Any) -> Any:
    """An API whose jobs, users and end are this test's alone."""
    with ApiServer(valkey.url, tmp_path) as server:
        yield server


def test_the_admin_deletes_all_jobs_and_all_users_but_himself(own_server: ApiServer) -> None:
    user, admin = own_server.new_user(), own_server.admin()
    job = user.submit(job_body())
    assert admin.request("DELETE", "/jobs")[0] == 204
    refused(user.request("GET", f"/jobs/{job['id']}"), 404)
    assert admin.request("DELETE", "/users")[0] == 204
    refused(user.request("GET", "/users/me"), 403)
    assert admin.ok("GET", "/users/me")["is_admin"]


def test_a_stopping_api_answers_open_long_polls_at_once_and_ends_in_good_order(own_server: ApiServer) -> None:
    user = own_server.new_user()
    with ThreadPoolExecutor(4) as pool:
        polls = [
            pool.submit(user.request, "GET", f"/work?machine_id=n{i}&container_group_id=g&wait=20")
            for i in range(4)
        ]
        wait_until(lambda: all(poll.running() for poll in polls), "the polls are under way")
        own_server.stop()
        assert [poll.result()[::2] for poll in polls] == [(200, [])] * 4
