from __future__ import annotations

import re

import pytest
from flask import Flask

from kelpie.http.context import services
from kelpie.store import Scope, Store
from kelpie.store.api_keys import digest_of
from kelpie.store.keys import session
from kelpie_web.ui import COOKIE
from tests.unit.web.conftest import ADMIN_KEY, LogIn


def test_a_browser_goes_from_the_root_to_the_dashboard_and_a_script_reads_on(app: Flask) -> None:
    client = app.test_client()
    assert client.get("/", headers={"Accept": "text/html"}).location == "/ui"
    assert "kelpie submit" in client.get("/", headers={"Accept": "*/*"}).text


def test_of_a_session_redis_keeps_no_secret_and_its_end(app: Flask, store: Store) -> None:
    client = app.test_client()
    client.post("/ui/login", data={"key": ADMIN_KEY})
    cookie = client.get_cookie(COOKIE, path="/ui")
    assert cookie is not None
    name = session(digest_of(cookie.value))
    kept = store.redis.hgetall(name)
    assert cookie.value.encode() not in b" ".join([*kept, *kept.values()])
    assert ADMIN_KEY.encode() not in b" ".join([*kept, *kept.values()])
    assert 0 < store.redis.pttl(name) <= 1000 * services(app).settings.session_s
    store.redis.delete(name)
    assert client.get("/ui").status_code == 302
    store.sessions.tell(cookie.value, "too late")
    assert not store.redis.exists(name)


def test_the_cookie_is_for_tls_only_where_there_is_tls(app: Flask) -> None:
    def cookie(**headers: str) -> str:
        return (
            app.test_client()
            .post("/ui/login", data={"key": ADMIN_KEY}, headers=headers)
            .headers["Set-Cookie"]
        )

    assert {"HttpOnly", "SameSite=Strict", "Path=/ui"} <= set(cookie().split("; "))
    assert "Secure" not in cookie()
    assert "Secure" in cookie(**{"X-Forwarded-Proto": "https"})


@pytest.mark.parametrize(
    ("asked", "led"),
    [
        ("/ui/jobs?status=failed", "/ui/jobs?status=failed"),
        ("https://evil.example/ui", "/ui"),
        ("//evil.example", "/ui"),
        ("/ui/../../evil", "/ui/../../evil"),  # a browser stays on this host
        ("/ui\\evil", "/ui"),
        ("/uievil", "/ui"),
        ("/ui/logout", "/ui"),
        ("/ui/jobs\r\nSet-Cookie: a=b", "/ui"),
    ],
)
def test_a_log_in_leads_to_a_page_of_ours_and_nowhere_else(app: Flask, asked: str, led: str) -> None:
    answer = app.test_client().post("/ui/login", data={"key": ADMIN_KEY, "next": asked})
    assert (answer.status_code, answer.location) == (303, led)


def test_guesses_are_limited_like_those_of_the_api(app: Flask) -> None:
    client = app.test_client()
    told = [client.post("/ui/login", data={"key": f"klp_{n}"}).status_code for n in range(7)]
    assert told == [403] * 5 + [429] * 2
    assert int(client.post("/ui/login", data={"key": "klp_x"}).headers["Retry-After"]) >= 1
    assert client.get("/jobs", headers={"X-Kelpie-Key": "klp_y"}).status_code == 429


@pytest.mark.parametrize("key", ["", "x" * 600, "\ud800", "\0"])
def test_odd_keys_are_wrong_keys(app: Flask, key: str) -> None:
    answer = app.test_client().post("/ui/login", data=b"key=" + key.encode("utf-8", "surrogatepass"))
    assert answer.status_code == 403
    form = app.test_client().post("/ui/login", data={"key": key.encode("utf-8", "replace")})
    assert form.status_code == 403


def test_a_key_that_only_works_gets_no_session(app: Flask, store: Store) -> None:
    user = store.users.create("node")
    key, _ = store.users.make_key(user.id, "o", "p", scopes=[Scope.WORK])
    client = app.test_client()
    assert client.post("/ui/login", data={"key": key}).status_code == 403
    assert client.get_cookie(COOKIE, path="/ui") is None
    assert list(store.redis.scan_iter("kelpie:{users}:session:*")) == []


def test_a_second_log_in_ends_the_first_session(app: Flask, store: Store) -> None:
    client = app.test_client()
    for _ in range(2):
        client.post("/ui/login", data={"key": ADMIN_KEY})
    assert len(list(store.redis.scan_iter("kelpie:{users}:session:*"))) == 1


def test_a_notice_is_said_once(log_in: LogIn) -> None:
    browser = log_in()
    key = browser.post("/ui/keys", name="<b>new</b>").text
    shown = re.search(r"klp_[\w-]{43}", key)
    assert shown is not None
    assert shown[0] not in browser.client.get("/ui/keys").text
    listed = browser.client.get("/ui/keys").text
    assert "&lt;b&gt;new&lt;/b&gt;" in listed
    revoke = re.findall(r"/ui/keys/([\w-]+)/revoke", listed)[-1]
    assert browser.post(f"/ui/keys/{revoke}/revoke").status_code == 303
    partial = browser.client.get("/ui/keys", headers={"HX-Request": "true"})
    assert "is revoked" not in partial.text
    assert "The key is revoked." in browser.client.get("/ui/keys").text
    assert "is revoked" not in browser.client.get("/ui/keys").text
