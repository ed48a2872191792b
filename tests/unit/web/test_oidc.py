"""Log-ins through a provider of identities: who gets in, as whom, and what a forger gets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from flask.testing import FlaskClient
from pydantic import ValidationError
from werkzeug.test import TestResponse

from kelpie.config import Settings
from kelpie.http.app import create_app
from kelpie.http.context import services
from kelpie.store import ADMIN_ID, Store
from kelpie.store.users import ORGANIZATION_PREFIX
from tests.identity import Signer
from tests.oidc import CLIENT_ID, CLIENT_SECRET, Issuer, issuer

ADA = "ada@example.org"
BACK = "http://localhost/ui/oidc/callback"


@pytest.fixture
def provider() -> Iterator[Issuer]:
    with issuer() as one:
        yield one


Visit = Callable[..., FlaskClient]


@pytest.fixture
def visit(provider: Issuer, store: Store) -> Iterator[Visit]:
    """A browser before an API that believes the provider."""
    made = []

    def visit(**settings: Any) -> FlaskClient:
        told = {
            name.removeprefix("KELPIE_").lower(): value for name, value in provider.settings(BACK).items()
        }
        app = create_app(Settings(**told | settings), store)
        made.append(app)
        return app.test_client()

    yield visit
    for app in made:
        parts = services(app)
        parts.close_polls()
        parts.pulse.close()


def begin(client: FlaskClient, onward: str = "/ui/jobs") -> str:
    """The address that a browser is sent to."""
    answer = client.get(f"/ui/oidc/start?{urlencode({'next': onward})}")
    assert answer.status_code == 303
    return answer.location


def come_back(client: FlaskClient, back: dict[str, str]) -> TestResponse:
    return client.get(f"/ui/oidc/callback?{urlencode(back)}")


def log_in(client: FlaskClient, provider: Issuer) -> TestResponse:
    return come_back(client, provider.log_in(begin(client)))


def refused(answer: TestResponse, why: str) -> None:
    problem = re.search(r'id="problem">([^<]+)<', answer.text)
    assert problem is not None, answer.text
    assert (answer.status_code, why in problem[1]) == (403, True), problem[1]
    assert "kelpie_session=" not in "".join(answer.headers.getlist("Set-Cookie"))


def test_a_user_gets_in_as_himself_and_where_he_wanted_to_go(
    visit: Visit, provider: Issuer, store: Store
) -> None:
    user = store.users.create(ADA)
    client = visit(session_s=600)
    assert f"Log in with localhost:{provider.service.port}" in client.get("/ui/login").text
    done = log_in(client, provider)
    assert (done.status_code, 'content="0;url=/ui/jobs"' in done.text) == (200, True)
    cookies = done.headers.getlist("Set-Cookie")
    [session] = [one for one in cookies if one.startswith("kelpie_session=")]
    assert "HttpOnly" in session
    assert "SameSite=Strict" in session
    assert ADA in client.get("/ui").text
    [key] = store.users.keys(user.id)
    assert (key.name, key.org_name, key.scopes) == (
        f"log-in through localhost:{provider.service.port}",
        "default",
        None,
    )
    assert key.expires is not None
    text = client.get("/ui/keys").text
    assert "this session" in text
    csrf = re.search(r'name="csrf" value="(\w+)"', text)
    assert csrf is not None
    made = client.post("/ui/keys", data={"csrf": csrf[1], "name": "of a laptop"})
    assert made.status_code == 200
    lasting, own = sorted(store.users.keys(user.id), key=lambda one: one.expires or 0)
    assert (lasting.name, lasting.expires) == ("of a laptop", None)  # it may outlive the session
    client.post("/ui/logout", data={"csrf": csrf[1]})
    assert [one.id for one in store.users.keys(user.id)] == [lasting.id]
    assert client.get("/ui").status_code == 302
    assert own.id == key.id


def test_a_log_in_ends_the_session_that_the_browser_had(visit: Visit, provider: Issuer, store: Store) -> None:
    user = store.users.create(ADA)
    client = visit()
    log_in(client, provider)
    old = client.get_cookie("kelpie_session", path="/ui")
    assert old is not None
    [first] = store.users.keys(user.id)
    address = begin(client)
    client.delete_cookie("kelpie_session", path="/ui")  # SameSite=Strict: the provider's pages do not send it
    assert come_back(client, provider.log_in(address)).status_code == 200
    assert client.get("/ui").status_code == 200
    assert store.sessions.find(old.value) is None
    assert [one.id for one in store.users.keys(user.id)] != [first.id]


def test_a_log_in_that_comes_to_nothing_leaves_the_session(
    visit: Visit, provider: Issuer, store: Store
) -> None:
    store.users.create(ADA)
    client = visit()
    log_in(client, provider)
    provider.error = "access_denied"
    refused(log_in(client, provider), "has not logged you in")
    assert client.get("/ui").status_code == 200


def test_a_session_ends_with_its_user(visit: Visit, provider: Issuer, store: Store) -> None:
    user = store.users.create(ADA)
    client = visit()
    log_in(client, provider)
    assert client.get("/ui").status_code == 200
    store.delete_user(user.id)
    assert client.get("/ui").status_code == 302


def test_who_is_no_user_is_refused_unless_users_are_to_be_made(
    visit: Visit, provider: Issuer, store: Store
) -> None:
    client = visit()
    refused(log_in(client, provider), f"You are {ADA} there, and no user of that name")
    assert store.users.named(ADA) is None
    generous = visit(oidc_create_users=True, oidc_claim="sub")
    assert log_in(generous, provider).status_code == 200
    assert store.users.named("person-1") is not None


@pytest.mark.parametrize("name", ["admin", "organization:acme", "Organization:new", ""])
def test_nobody_becomes_the_admin_or_an_organization_by_calling_himself_so(
    visit: Visit, provider: Issuer, store: Store, name: str
) -> None:
    assert store.users.get(ADMIN_ID).username == "admin"
    store.organizations.ensure("acme", None)
    assert store.users.named(f"{ORGANIZATION_PREFIX}acme") is not None
    provider.claims = {"sub": name}
    client = visit(oidc_claim="sub", oidc_create_users=True)
    answer = log_in(client, provider)
    refused(answer, "ask the admin" if name else "claim sub is no name")


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"nonce": "of another log-in"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"aud": "another-client"}, "aud"),
        ({"aud": [CLIENT_ID, "another"], "azp": "another"}, "azp"),
        ({"iss": "https://evil.example"}, "iss"),
        ({"exp": 1}, "expired"),
        ({"exp": None}, "exp"),
        ({"iat": 9_999_999_999}, ""),
        ({"at_hash": "of-another-token"}, "at_hash"),
        ({"email_verified": False}, "is not verified"),
        ({"email_verified": None}, "is not verified"),
        ({"email_verified": "true"}, "is not verified"),
        ({"email": None}, "claim email is no name"),
        ({"email": ["ada@example.org"]}, "claim email is no name"),
        ({"email": "x" * 129}, "claim email is no name"),
        ({"email": "a\nb"}, "claim email is no name"),
    ],
)
def test_a_token_that_does_not_fit_gets_nobody_in(
    visit: Visit, provider: Issuer, store: Store, claims: dict[str, Any], why: str
) -> None:
    store.users.create(ADA)
    provider.claims = claims
    refused(log_in(visit(), provider), why)


def test_a_token_that_another_has_signed_or_nobody_gets_nobody_in(
    visit: Visit, provider: Issuer, store: Store
) -> None:
    store.users.create(ADA)
    client = visit()
    address = begin(client)
    back = provider.log_in(address)
    claims = {"iss": provider.url, "aud": CLIENT_ID, "email": ADA, "email_verified": True}
    provider.token = Signer("first").token(**claims)
    refused(come_back(client, back), "is not accepted")
    for token in ("eyJhbGciOiJub25lIn0.e30.", "x", "a.b.c", "e" * 9000):
        provider.token = token
        refused(log_in(client, provider), "is not accepted")


def test_a_log_in_belongs_to_the_browser_that_began_it_and_happens_once(
    visit: Visit, provider: Issuer, store: Store
) -> None:
    store.users.create(ADA)
    mine = visit()
    theirs = mine.application.test_client()
    back = provider.log_in(begin(theirs))
    refused(come_back(mine, back), "was not begun in this browser")
    begin(mine)
    refused(come_back(mine, back), "was not begun in this browser")  # with a cookie of another log-in
    kept = theirs.get_cookie("kelpie_login", path="/ui/oidc")
    assert kept is not None
    assert come_back(theirs, back).status_code == 200
    theirs.set_cookie("kelpie_login", kept.value, path="/ui/oidc")
    refused(come_back(theirs, back), "does not know this log-in any more")


@pytest.mark.parametrize(
    "cookie",
    ["", "x", "é", "W10=", "WzEsMiwzLDQsNV0=", "e30=", "A" * 5000, "WyJcdWQ4MDAiLCJhIiwiYiIsIiIsIi8iXQ=="],
)
def test_a_cookie_that_is_none_of_ours_is_refused(
    visit: Visit, provider: Issuer, store: Store, cookie: str
) -> None:
    client = visit()
    back = provider.log_in(begin(client))
    answer = client.get(f"/ui/oidc/callback?{urlencode(back)}", headers={"Cookie": f"kelpie_login={cookie}"})
    assert answer.status_code in {400, 403}


def test_who_did_not_log_in_there_or_elsewhere_gets_not_in_here(
    visit: Visit, provider: Issuer, store: Store
) -> None:
    store.users.create(ADA)
    client = visit()
    provider.error = "access_denied<script>"
    answer = log_in(client, provider)
    refused(answer, "has not logged you in")
    assert "access_denied" not in answer.text
    provider.error = None
    back = provider.log_in(begin(client))
    refused(come_back(client, back | {"iss": "https://evil.example"}), "another provider")
    back = provider.log_in(begin(client))
    refused(come_back(client, back | {"code": ""}), "has not logged you in")


def test_without_its_provider_people_log_in_with_keys(visit: Visit, provider: Issuer, store: Store) -> None:
    client = visit(auth_timeout_s=1)
    provider.service.answer = lambda _: b"<html>"
    answer = client.get("/ui/oidc/start")
    assert (answer.status_code, "cannot be asked now" in answer.text) == (503, True)
    assert CLIENT_SECRET not in answer.text
    assert 'name="key"' in answer.text


def test_without_a_provider_there_is_no_such_page(store: Store) -> None:
    app = create_app(Settings(), store)
    client = app.test_client()
    for path in ("/ui/oidc/start", "/ui/oidc/callback"):
        assert client.get(path).status_code == 404
    assert "Log in with" not in client.get("/ui/login").text
    services(app).close_polls()
    services(app).pulse.close()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"oidc_issuer": "http://login.example.org"}, "https://"),
        ({"oidc_issuer": "https://user:pass@login.example.org"}, "without user"),
        ({"oidc_issuer": "https://login.example.org"}, "KELPIE_OIDC_CLIENT_ID"),
        ({"oidc_scopes": "email"}, "openid"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Settings(**settings)
