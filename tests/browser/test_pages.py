"""Every page in a real browser: nothing that shuts people out, nothing that a console has against it."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.api import ApiServer, ApiUser
from tests.browser.pages import group_number, pages_of
from tests.browser.people import DESK, PHONE, Person, person
from tests.browser.scenery import HOSTILE, paint
from tests.browser.test_controls import press
from tests.factories import job_body


@pytest.mark.timeout(400)
def test_axe_finds_nothing_on_any_page_in_either_theme_and_none_is_wider_than_a_phone(
    browser: Browser, api_server: ApiServer, api: ApiUser
) -> None:
    scenery = paint(api)
    found: dict[str, list[str]] = {}

    def look(one: Person, path: str, then: str | None = None) -> None:
        one.go(path)
        if then == "Preview":
            one.page.get_by_label("Which jobs").select_option("all")
            one.page.locator("#action").select_option("prioritize")
        if then is not None:  # the page behind a button
            press(one.page, then)
            one.page.wait_for_load_state()
            path += f", {then}"
        found[path] = one.violations()
        one.page.get_by_role("button", name="Light or dark").click()
        found[f"{path}, dark"] = one.violations("color-contrast")
        one.page.get_by_role("button", name="Light or dark").click()
        one.page.set_viewport_size(PHONE)
        width = one.page.evaluate("document.documentElement.scrollWidth")
        found[f"{path}, phone"] = [f"{width} px wide"] if width > PHONE["width"] else []
        one.page.set_viewport_size(DESK)

    with person(browser, api_server.url) as one:
        look(one, "/login")
        one.log_in(api.key)
        for path in pages_of(api, scenery).values():
            look(one, path)
        look(one, f"/groups/{group_number(api, scenery.group)}", "Try it out")
        look(one, f"/groups/{group_number(api, scenery.group)}", "Clear…")
        look(one, "/webhooks", "Rotate the secret")
        look(one, f"/jobs?group={scenery.group}", "Preview")
    with person(browser, api_server.url) as admin:
        admin.log_in(api_server.admin_key)
        for path in ("/users", f"/users/{api.user_id}"):
            look(admin, path)
        look(admin, f"/users/{api.user_id}", "Delete…")
    assert {title: wrong for title, wrong in found.items() if wrong} == {}


def test_axe_finds_nothing_on_the_page_that_tries_calls_out(visitor: Person) -> None:
    page = visitor.page
    page.goto(f"{visitor.url}/docs")
    page.locator("#operations-Jobs-listJobs button.opblock-summary-control").click()
    page.get_by_role("button", name="Try it out").click()
    expect(page.get_by_role("button", name="Execute")).to_be_visible()
    expect(page).to_have_url(f"{visitor.url}/docs#/Jobs/listJobs")
    for alike in (".opblock:not(.is-open)", "article.json-schema-2020-12"):  # it is slow to look at hundreds
        page.locator(alike).evaluate_all("all => all.slice(9).forEach((one) => one.remove())")
    assert visitor.violations() == []


def test_hostile_words_show_as_text(user: Person, api: ApiUser) -> None:
    scenery = paint(api)
    page = user.page
    dialogs: list[Any] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog) or dialog.dismiss())
    shown = HOSTILE[:28]
    for path in (
        f"/jobs/{scenery.hostile}",
        "/jobs",
        f"/submit?from={scenery.hostile}",
        f"/jobs?q={HOSTILE[:9]}",
    ):
        user.go(path)
        expect(page.locator("main")).to_contain_text(shown)
        assert page.locator("main img").count() == page.locator("main b").count() == 0
    user.go(f"/submit?from={scenery.hostile}")
    assert shown in page.get_by_label("The job").input_value()
    expect(page.locator("#check")).to_contain_text(shown)
    user.go(f"/jobs?node={HOSTILE}&group=%22%3E%3Cb%3E&status=%3Cb%3E")
    expect(page.get_by_role("alert")).to_contain_text("status")
    assert page.get_by_label("Group").input_value() == '"><b>'
    assert dialogs == []


def test_keys_lead_to_the_search_and_to_pages_and_tell_what_they_do(user: Person) -> None:
    page = user.page
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keys")).to_be_hidden()
    page.keyboard.press("/")
    expect(page.get_by_label("Text")).to_be_focused()
    page.keyboard.type("g o /")
    expect(page).to_have_url(f"{user.url}/ui/jobs#q")
    page.get_by_label("Text").blur()
    page.keyboard.press("g")
    page.keyboard.press("n")
    expect(page.get_by_role("heading", name="Nodes")).to_be_visible()


def test_the_theme_and_the_zone_are_kept(user: Person, api: ApiUser) -> None:
    job = api.submit(job_body(container_group_id=f"group-{uuid.uuid4()}"))
    page = user.go(f"/jobs/{job['id']}")
    told = page.locator(f'time[datetime="{job["created"]}"]').first
    expect(told).to_have_text(f"{job['created'][:19].replace('T', ' ')} UTC")
    page.get_by_title("Show times in UTC or local time").click()
    page.get_by_role("button", name="Light or dark").click()
    page.reload()
    expect(told).not_to_contain_text("UTC")
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")
