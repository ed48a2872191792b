"""Every switch that stands on a page does what it says, and the audit says who turned it."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.api import ApiServer, ApiUser
from tests.browser.pages import group_number
from tests.browser.people import Person
from tests.browser.scenery import lease, paint, report
from tests.factories import job_body
from tests.platform import PlatformProcess
from tests.unit.platform.receiver import Receiver, receiver
from tests.waiting import wait_until


@pytest.fixture
def to() -> Iterator[Receiver]:
    """A receiver of webhooks."""
    with receiver() as to:
        yield to


@pytest.fixture
def platform(api_server: ApiServer, tmp_path: Path) -> Iterator[PlatformProcess]:
    """What delivers webhooks."""
    with PlatformProcess(api_server.redis_url, tmp_path / "platform") as process:
        yield process


def press(page: Page, name: str) -> None:
    """A button of the page."""
    page.get_by_role("main").get_by_role("button", name=name, exact=True).first.click()


def expect_in_audit(user: Person, *deeds: str) -> None:
    """Each of these is an entry of the audit."""
    user.go("/audit")
    for deed in deeds:
        expect(user.page.get_by_role("cell", name=deed, exact=True).first).to_be_visible()


def test_every_switch_of_a_job_turns_it(user: Person, api: ApiUser) -> None:
    scenery = paint(api)
    page = user.go(f"/jobs/{scenery.pending}")
    press(page, "Hold")
    expect(page.locator("#notice")).to_contain_text("not given to a node until it is resumed")
    expect(page.locator("#waiting")).to_contain_text("held")
    press(page, "Resume")
    expect(page.locator("#notice")).to_have_text("The job goes on.")
    page.get_by_label("Priority").fill("7")
    press(page, "Set")
    expect(page.locator("#notice")).to_contain_text("its new place")
    assert api.job(scenery.pending)["priority"] == 7
    press(page, "Cancel")
    expect(page.locator("#status")).to_have_text("canceled")
    press(page, "Requeue")
    expect(page.locator("#status")).to_have_text("pending")
    page.get_by_text("Raw JSON").click()
    raw = json.loads(page.locator("#raw code").inner_text())
    told = api.job(scenery.pending)
    assert {name: raw[name] for name in told} == told
    user.go(f"/jobs/{scenery.running}")
    press(page, "Unban")
    expect(page.get_by_role("heading", name="Bans")).to_have_count(0)
    assert api.job(scenery.running)["banned_nodes"] == []
    page.get_by_role("link", name="Delete…").click()
    press(page, "Delete it")
    expect(page.locator("#notice")).to_contain_text("is deleted")
    assert api.request("GET", f"/jobs/{scenery.running}")[0] == 404
    deeds = ("hold", "resume", "prioritize", "cancel", "requeue", "unban")
    expect_in_audit(user, *(f"{deed} a job" for deed in deeds), "delete a job")


def test_the_filters_of_the_list_are_in_its_address(user: Person, api: ApiUser) -> None:
    scenery = paint(api)
    page = user.go("/jobs")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(5)
    for label, value, count in (
        ("Text", "90000", 1),
        ("Label", "sweep=lattice-64", 4),
        ("Node", "node-b", 2),
        ("Group", "no-such-group", 0),
        ("Group", scenery.group, 5),
    ):
        page.get_by_label(label, exact=True).fill(value)
        press(page, "Filter")
        expect(rows).to_have_count(count)
        page.get_by_role("link", name="Clear").click()
    page.locator("#status").select_option("failed")
    press(page, "Filter")
    expect(page).to_have_url(re.compile("status=failed"))
    page.reload()
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("--steps -1")
    user.go("/jobs")
    page.get_by_role("link", name="Oldest first").click()
    expect(rows.first).to_contain_text("20000")


def test_many_jobs_are_unbanned_and_prioritized_at_once(user: Person, api: ApiUser) -> None:
    scenery = paint(api)
    page = user.go(f"/jobs?group={scenery.group}&status=running")
    page.get_by_label("Which jobs").select_option("all")
    page.locator("#action").select_option("unban")
    press(page, "Preview")
    press(page, "Unban every node of 1 job")
    expect(page.locator("#notice")).to_have_text("1 job is free of bans.")
    assert api.job(scenery.running)["banned_nodes"] == []
    page.get_by_role("link", name="Clear").click()
    page.get_by_label("Which jobs").select_option("all")
    page.locator("#action").select_option("prioritize")
    press(page, "Preview")
    expect(page.get_by_role("heading", name="Change the priority of 2 jobs?")).to_be_visible()
    page.get_by_label("to", exact=True).fill("200")
    press(page, "Change the priority of 2 jobs")
    expect(page.locator("#notice")).to_have_text("2 jobs are in their new place.")
    found = {name: api.job(getattr(scenery, name))["priority"] for name in ("pending", "hostile", "running")}
    assert found == {"pending": 200, "hostile": 200, "running": 0}
    expect_in_audit(user, "unban jobs", "prioritize jobs")


def test_a_queue_is_cleared_after_its_jobs_were_counted(user: Person, api: ApiUser) -> None:
    scenery = paint(api)
    page = user.go("/groups")
    page.get_by_role("link", name=scenery.group).click()
    press(page, "Clear…")
    expect(page.get_by_role("main")).to_contain_text("2 pending jobs are removed for good, and 1 running")
    assert api.job(scenery.pending)["status"] == "pending"
    press(page, "Clear it")
    expect(page.locator("#notice")).to_have_text("3 jobs were removed or canceled.")
    assert api.job(scenery.running)["status"] == "canceled"
    assert api.request("GET", f"/jobs/{scenery.pending}")[0] == 404
    expect_in_audit(user, "clear a queue")


def test_a_scaling_rule_is_deleted_and_made_anew(user: Person, api: ApiUser) -> None:
    scenery = paint(api)
    page = user.go(f"/groups/{group_number(api, scenery.group)}")
    press(page, "Delete the rule")
    expect(page.locator("#notice")).to_contain_text("The rule is deleted")
    assert api.request("GET", f"/scaling-rules/{scenery.group}")[0] == 404
    page.get_by_label("At most").fill("3")
    press(page, "Try it out")
    expect(page.locator("#decision")).to_contain_text("Nothing was changed")
    assert api.request("GET", f"/scaling-rules/{scenery.group}")[0] == 404
    press(page, "Keep")
    expect(page.locator("#notice")).to_contain_text("The rule is kept")
    assert api.ok("GET", f"/scaling-rules/{scenery.group}")["max_replicas"] == 3
    expect_in_audit(user, "delete a scaling rule", "set a scaling rule")


def test_a_webhook_is_sent_again_before_ones_eyes(
    user: Person, api: ApiUser, to: Receiver, platform: PlatformProcess
) -> None:
    to.statuses = [400, 204]
    group = f"group-{uuid.uuid4().hex[:8]}"
    job = api.submit(job_body(container_group_id=group, webhook=f"{to.url}/hook?token=hush-hush"))
    report(api, lease(api, group, "node-1"), "released")
    wait_until(lambda: to.deliveries, "the first try")
    page = user.go(f"/jobs/{job['id']}")
    expect(page.get_by_role("region", name="Webhook deliveries")).to_contain_text("running")
    user.go(f"/webhooks?job={job['id']}")
    assert "hush-hush" not in page.content()
    page.locator("tbody a").first.click()
    expect(page.locator("#live")).to_contain_text("it answered 400")
    press(page, "Send it again")
    expect(page.get_by_role("heading", level=1)).to_contain_text("delivered")
    expect(page.get_by_role("region", name="Tries")).to_contain_text("204")
    first, second = to.deliveries
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    expect_in_audit(user, "replay a webhook delivery")


def test_the_secret_of_webhooks_is_rotated_and_shown_once(user: Person, api: ApiUser) -> None:
    page = user.go("/webhooks")
    press(page, "Rotate the secret")
    secret = page.locator("#secret code").inner_text()
    assert secret.startswith("whsec_")
    user.go("/webhooks")
    assert secret not in page.content()
    expect_in_audit(user, "rotate the webhook secret")


def test_what_needs_attention_is_named_with_its_reason(user: Person, api: ApiUser) -> None:
    scenery = paint(api)
    idle = f"group-{uuid.uuid4().hex[:8]}"
    api.submit(job_body(container_group_id=idle))
    page = user.go("")
    worries = page.locator("#worries")
    expect(worries).to_contain_text(f"1 waiting in {idle}")
    expect(worries).to_contain_text("no node polls this group")
    worries.get_by_role("link", name=scenery.failed).click()
    expect(page.locator("#status")).to_have_text("failed")


def test_a_job_of_the_form_is_told_as_a_command_as_curl_and_as_python(user: Person, api: ApiUser) -> None:
    user.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = user.go("/submit")
    page.get_by_label("Command").fill("python sim.py --name 'a b'")
    page.get_by_label("Group").fill("sims")
    check = page.locator("#check")
    for words in ("kelpie submit", "curl", "from kelpie"):
        expect(check).to_contain_text(words)
    check.get_by_role("button", name="Copy").first.click()
    expect(check.get_by_role("button", name="Copied")).to_have_count(1)
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == check.locator("code").first.inner_text()
    assert api.key not in check.inner_text()
