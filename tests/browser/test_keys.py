"""Keys and users: made, shown once, used, ended."""

from __future__ import annotations

import uuid

from playwright.sync_api import Browser, expect

from tests.api import ApiServer, ApiUser
from tests.browser.people import Person, person
from tests.browser.test_controls import expect_in_audit, press


def test_a_key_is_shown_once_does_what_it_may_and_ends_when_it_is_revoked(user: Person, api: ApiUser) -> None:
    page = user.go("/keys")
    page.get_by_label("Name").fill("screen on the wall")
    page.get_by_label("read").check()
    page.get_by_label("Expires after").fill("30")
    press(page, "Make a key")
    expect(page.get_by_role("main")).to_contain_text("It is shown this once")
    key = page.locator("#secret code").inner_text()
    assert api.request("GET", "/jobs", key=key)[0] == 200
    assert api.request("DELETE", "/jobs/container-groups/g", key=key)[0] == 403
    page.get_by_role("link", name="To the keys").click()
    assert key not in page.content()
    row = page.get_by_role("row").filter(has_text="screen on the wall")
    expect(row).to_contain_text("read")
    row.get_by_role("button", name="Revoke").click()
    expect(page.locator("#notice")).to_have_text("The key is revoked.")
    expect(row).to_have_count(0)
    assert api.request("GET", "/jobs", key=key)[0] == 403
    page.get_by_label("Expires after").evaluate("box => box.type = 'text'")  # what no browser would send
    page.get_by_label("Expires after").fill("soon")
    press(page, "Make a key")
    expect(page.get_by_role("main")).to_contain_text("expires_in_s")
    expect_in_audit(user, "make an API key", "revoke an API key")


def test_the_admin_makes_a_user_with_a_key_and_deletes_him(browser: Browser, api_server: ApiServer) -> None:
    name = f"user-{uuid.uuid4().hex[:8]}"
    with person(browser, api_server.url) as admin:
        page = admin.log_in(api_server.admin_key)
        admin.go("/users")
        page.get_by_label("New user").fill(name)
        press(page, "Make")
        expect(page.locator("#notice")).to_contain_text("The user is there")
        page.get_by_label("Organization").fill("org")
        page.get_by_label("Project").fill("project")
        press(page, "Make a key")
        key = page.locator("#secret code").inner_text()
        admin.go("/users")
        page.get_by_role("link", name=name).click()
        assert key not in page.content()
        with person(browser, api_server.url) as newcomer:
            newcomer.log_in(key)
            expect(newcomer.page.locator("footer")).to_contain_text(name)
            assert newcomer.page.get_by_role("link", name="Users").count() == 0
            newcomer.go("/users")
            expect(newcomer.page.get_by_role("heading", name="Not allowed")).to_be_visible()
            press(page, "Revoke")
            expect(page.locator("#notice")).to_have_text("The key is revoked.")
            newcomer.go("/jobs")
            expect(newcomer.page.get_by_label("API key")).to_be_visible()
        press(page, "Delete…")
        press(page, "Delete him")
        expect(page.locator("#notice")).to_have_text(f"{name} is deleted.")
        assert page.get_by_role("link", name=name).count() == 0
        deeds = ("make a user", "make an API key of a user", "revoke an API key of a user", "delete a user")
        expect_in_audit(admin, *deeds)
