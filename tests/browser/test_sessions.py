"""Who gets in, how long, and what he sees."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from playwright.sync_api import Browser, expect
from playwright.sync_api import Error as PlaywrightError

from kelpie.embedded.valkey import ValkeyServer
from kelpie.store.api_keys import digest_of
from kelpie.store.keys import session
from tests.api import ApiServer, ApiUser
from tests.browser.pages import pages_of
from tests.browser.people import Person, person
from tests.browser.scenery import lease, paint, report
from tests.factories import job_body
from tests.oidc import issuer


@pytest.fixture
def lone_server(broker: ValkeyServer, tmp_path: Path) -> Iterator[ApiServer]:
    """An API whose Redis a test may stop."""
    with ApiServer(broker.url, tmp_path) as server:
        yield server


def test_a_wrong_key_gets_nobody_in_and_the_right_one_where_he_wanted_to_go(
    visitor: Person, api: ApiUser
) -> None:
    page = visitor.go("/nodes?state=idle")
    page.get_by_label("API key").fill("klp_wrong")
    page.get_by_role("button", name="Log in", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("not known here")
    page.get_by_label("API key").fill(api.key)
    page.get_by_role("button", name="Log in", exact=True).click()
    expect(page).to_have_url(f"{visitor.url}/ui/nodes?state=idle")
    [cookie] = visitor.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/ui")
    assert api.key not in page.content()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    visitor.context.add_cookies([cookie])  # somebody has copied it
    visitor.go("/nodes")
    expect(page.get_by_label("API key")).to_be_visible()


def test_a_session_ends_with_its_key_on_the_page_that_is_open(visitor: Person, api: ApiUser) -> None:
    made = api.ok("POST", "/users/me/keys", json={"name": "of a laptop"})
    visitor.log_in(made["token"])
    page = visitor.go("/jobs")
    api.ok("DELETE", f"/users/me/keys/{made['id']}")
    expect(page.get_by_label("API key")).to_be_visible()


def test_a_session_that_expires_leads_to_the_log_in_and_back(
    user: Person, api: ApiUser, api_server: ApiServer
) -> None:
    job = api.submit(job_body(container_group_id=f"group-{uuid.uuid4().hex[:8]}"))
    page = user.go(f"/jobs/{job['id']}")
    [cookie] = user.context.cookies()
    with redis.Redis.from_url(api_server.redis_url) as client:  # as it does after KELPIE_SESSION_S
        assert client.pexpire(session(digest_of(cookie["value"])), 1) == 1
    # Who clicks is asked to log in; who waits is, too, because the page follows what happens.
    with suppress(PlaywrightError):
        page.get_by_role("button", name="Cancel").click(timeout=2000)
    asked = page.get_by_label("API key").or_(page.get_by_role("heading", name="Please log in"))
    expect(asked).to_be_visible()
    assert api.job(job["id"])["status"] == "pending"
    user.go(f"/jobs/{job['id']}")
    page.get_by_label("API key").fill(api.key)
    page.get_by_role("button", name="Log in", exact=True).click()
    expect(page).to_have_url(f"{user.url}/ui/jobs/{job['id']}")


def test_a_provider_of_another_site_logs_a_browser_in_where_it_wanted_to_go(
    browser: Browser, api_server: ApiServer, tmp_path: Path
) -> None:
    name = f"{uuid.uuid4().hex}@example.org"
    api_server.admin().ok("POST", "/users", json={"username": name})
    server = ApiServer(api_server.redis_url, tmp_path)
    server.admin_key = api_server.admin_key
    with issuer() as provider:
        provider.claims = {"email": name}
        server.settings |= provider.settings(f"{server.url}/ui/oidc/callback")
        with server, person(browser, server.url) as one:
            page = one.go("/nodes?state=idle")
            assert one.violations() == []
            page.get_by_role("link", name="Log in with localhost").click()
            expect(page).to_have_url(f"{server.url}/ui/nodes?state=idle")
            expect(page.locator("footer")).to_contain_text(name)
            page.get_by_role("button", name="Log out").click()
            expect(page.get_by_label("API key")).to_be_visible()


def test_a_form_without_its_token_or_of_another_site_changes_nothing(user: Person, api: ApiUser) -> None:
    job = api.submit(job_body(container_group_id=f"group-{uuid.uuid4().hex[:8]}"))
    page = user.go(f"/jobs/{job['id']}")
    page.get_by_role("button", name="Cancel").evaluate(  # in one go: the page renews itself
        "button => { button.form.querySelector('[name=csrf]').remove(); button.click(); }"
    )
    expect(page.get_by_role("heading", name="Not allowed")).to_be_visible()
    expect(page.get_by_role("main")).to_contain_text("not one of your session")
    action = f"{user.url}/ui/jobs/{job['id']}/cancel"
    form = f'<form method="post" action="{action}"><button>Win a prize</button></form>'
    page.route("http://evil.test/", lambda route: route.fulfill(body=form, content_type="text/html"))
    page.goto("http://evil.test/")
    page.get_by_role("button", name="Win a prize").click()
    expect(page.get_by_role("heading")).to_have_text(re.compile("log in|Not allowed"))
    assert api.job(job["id"])["status"] == "pending"


def test_keys_of_nodes_do_not_get_in_and_keys_that_read_see_no_switches(
    visitor: Person, api: ApiUser
) -> None:
    scenery = paint(api)
    work, read = (
        api.ok("POST", "/users/me/keys", json={"scopes": [scope]})["token"] for scope in ("work", "read")
    )
    page = visitor.go("/login")
    page.get_by_label("API key").fill(work)
    page.get_by_role("button", name="Log in", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("This key is for nodes")
    visitor.log_in(read)
    for title, path in pages_of(api, scenery).items():
        visitor.go(path)
        switches = page.locator('main form[method="post"] button')
        assert switches.count() == 0, title
    expect(page.locator("footer")).to_contain_text("may look, and change nothing")


def test_a_user_sees_his_own_only_and_the_admin_no_secrets(
    browser: Browser, user: Person, api_server: ApiServer, api: ApiUser
) -> None:
    owner = api_server.new_user()
    scenery = paint(owner)
    secret_group = f"group-{uuid.uuid4().hex[:8]}"
    secret = owner.submit(
        {
            "command": "true",
            "container_group_id": secret_group,
            "sync": {},
            "environment": {"DB_PASSWORD": "hunter-22"},
        }
    )
    pages = pages_of(owner, scenery)
    for title in ("job", "job-delete", "node", "group", "submit-json"):
        user.go(pages[title])
        expect(user.page.get_by_role("heading", name="Not found")).to_be_visible()
    for title in ("overview", "jobs", "nodes", "groups", "webhooks", "audit"):
        content = user.go(pages[title]).content()
        assert scenery.group not in content, title
        assert scenery.running not in content, title
    held = lease(owner, secret_group, "node-s")
    report(owner, held, "failed", exit_code=1, reason="hunter-22 is wrong", stderr_tail="hunter-22")
    with person(browser, api_server.url) as admin:
        admin.log_in(api_server.admin_key)
        content = admin.go(f"/jobs/{secret['id']}").content()
        assert "hunter-22" not in content
        assert "[masked]" in content


def test_a_page_says_that_redis_is_away_and_goes_on_when_it_is_back(
    browser: Browser, lone_server: ApiServer, broker: ValkeyServer
) -> None:
    key = lone_server.new_user().key
    with person(browser, lone_server.url) as one:
        page = one.log_in(key)
        broker.kill()
        expect(page.locator("#stale")).to_be_visible()
        expect(page.locator("#stale")).to_contain_text("What you see is of")
        one.go("/jobs")
        expect(page.get_by_role("heading", name="Redis is away")).to_be_visible()
        broker.start()
        page.get_by_role("link", name="Try again").click()
        expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
        one.complaints.clear()
