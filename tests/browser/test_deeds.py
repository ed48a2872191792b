"""What people do on the pages, with real nodes behind them."""

from __future__ import annotations

import re
import uuid
from contextlib import closing
from pathlib import Path

from playwright.sync_api import Page, expect

from kelpie.embedded.s3 import S3Server
from kelpie.transfers import PHASES
from tests.api import ApiUser
from tests.browser.pages import group_number
from tests.browser.people import Person
from tests.browser.scenery import lease, paint, report
from tests.factories import job_body
from tests.system.fleet import Fleet


def mark(page: Page) -> None:
    """Remember that this very document is open."""
    page.evaluate("window.marked = true")


def is_marked(page: Page) -> bool:
    """Whether it still is: nothing was loaded anew."""
    return bool(page.evaluate("window.marked === true"))


def test_a_job_from_the_form_completes_before_ones_eyes(user: Person, fleet: Fleet) -> None:
    page = user.go("/submit")
    page.get_by_label("Command").fill('sh -c \'test "$WORD" = yes')
    expect(page.locator("#problems")).to_contain_text("a quote is not closed")
    page.get_by_label("Command").fill("sh -c 'test \"$WORD\" = yes'")
    page.get_by_label("Group").fill(fleet.group)
    page.get_by_label("Environment").fill("WORD=yes")
    expect(page.locator("#check")).to_contain_text("kelpie submit")
    page.get_by_role("button", name="Submit", exact=True).click()
    expect(page.locator("#notice")).to_contain_text("queued")
    expect(page.locator("#status")).to_have_text("pending")
    expect(page.locator("#waiting")).to_contain_text("no node polls this group")
    mark(page)
    fleet.node()
    expect(page.locator("#status")).to_have_text("completed")
    expect(page.locator(".bar-completed")).to_have_count(1)
    expect(page.locator("#events tbody tr").last).to_contain_text("completed")
    assert is_marked(page)
    user.go("")
    expect(page.locator('[data-figure="completed"]')).to_have_text("1")


def test_the_timeline_grows_when_a_node_is_killed(user: Person, fleet: Fleet) -> None:
    first = fleet.node()
    job_id = fleet.submit("sleep 600")
    fleet.wait_for(job_id, status="running")
    page = user.go(f"/jobs/{job_id}")
    expect(page.locator(".bar")).to_have_count(1)
    mark(page)
    first.kill()
    fleet.node()
    expect(page.locator(".bar")).to_have_count(2)
    expect(page.locator(".bar-interrupted")).to_have_count(1)
    expect(page.locator("#attempts")).to_have_text("2")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#status")).to_have_text("canceled")


def test_the_data_of_a_job_is_counted_before_ones_eyes(
    user: Person, api: ApiUser, s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    with closing(s3.client()) as client:
        for name, size in (("a", 1000), ("b", 2000)):
            client.put_object(Bucket=bucket, Key=f"in/{name}", Body=b"x" * size)

    def entry(folder: str, prefix: str, direction: str) -> dict[str, str]:
        return {"bucket": bucket, "prefix": prefix, "local_path": folder, "direction": direction}

    with closing(Fleet(api, tmp_path, f"group-{uuid.uuid4().hex[:8]}", storage=s3.environment)) as fleet:
        job_id = fleet.submit(
            f"head -c 500 in/a > ck/1; until test -e {tmp_path}/go-on; do sleep 0.1; done; cp in/* out*",
            sync={
                "before": [entry("in", "in/", "download")],
                "during": [entry("ck", "ck/", "upload")],
                "after": [entry("out<b>", "out/", "upload")],
            },
        )
        page = user.go(f"/jobs/{job_id}")
        data = page.get_by_role("region", name="Data")
        before, during, after = (data.locator(f"[data-phase={phase}]") for phase in PHASES)
        expect(after).to_contain_text("out<b>")
        expect(data.get_by_role("columnheader", name="State")).to_have_count(0)
        fleet.node()
        expect(before).to_contain_text("done 2 files, 3 kB – – ")
        expect(during).to_contain_text("watching 1 file, 500 B")
        expect(after).to_contain_text("not begun 0 files")
        (tmp_path / "go-on").touch()
        expect(page.locator("#status")).to_have_text("completed")
        expect(after).to_contain_text("done 2 files, 3 kB")
        expect(during).to_contain_text("done 1 file, 500 B")
        expect(page.locator("#data")).to_contain_text("Told by the node of attempt 1, at")


def test_the_plots_of_progress_grow_while_one_looks(user: Person, api: ApiUser) -> None:
    group = f"group-{uuid.uuid4().hex[:8]}"
    job = api.submit(job_body(container_group_id=group))
    held = lease(api, group, "node-a")

    def tell(fraction: float, loss: float) -> None:
        report(api, held, "heartbeat", progress={"fraction": fraction, "metrics": {"loss <b>": loss}})

    tell(0.25, 4)
    page = user.go(f"/jobs/{job['id']}")
    expect(page.locator('[data-figure="progress"]')).to_have_text("25 %")
    expect(page.locator("#curves")).to_have_count(0)  # one word is no line
    mark(page)
    tell(0.75, 1)
    plot = page.get_by_role("img", name="Progress over")
    expect(plot).to_have_accessible_name(re.compile("from 25 % to 75 %"))
    expect(page.get_by_role("img", name="loss <b> over")).to_have_accessible_name(re.compile("from 4 to 1"))
    assert is_marked(page)


def test_what_a_command_prints_is_followed_and_escape_codes_show(user: Person, fleet: Fleet) -> None:
    fleet.node()
    go_on = fleet.root / "go-on"
    job_id = fleet.submit(
        f"printf 'one <b>\\033[31m red\\n'; until test -e {go_on}; do sleep 0.1; done; echo two; sleep 600"
    )
    page = user.go(f"/jobs/{job_id}")
    expect(page.locator("#log")).to_contain_text("one <b>␛[31m red")
    go_on.touch()
    expect(page.locator("#log")).to_contain_text("two")
    with page.expect_download() as saved:
        page.get_by_role("link", name="Download all that is kept").click()
    assert "stdout two" in saved.value.path().read_text()
    user.go(f"/jobs/{job_id}/log?find=TWO")
    expect(page.locator("#log")).to_have_text("two")


def test_many_jobs_are_canceled_retried_and_deleted_after_a_preview(user: Person, api: ApiUser) -> None:
    group = f"group-{uuid.uuid4().hex[:8]}"
    jobs = [api.submit(job_body(container_group_id=group, labels={"n": str(n)})) for n in range(4)]
    page = user.go(f"/jobs?group={group}")
    for job in jobs[:2]:
        page.get_by_label(f"Choose job {job['id']}").check()
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_role("heading", name="Cancel 2 jobs?")).to_be_visible()
    page.get_by_role("button", name="Cancel 2 jobs").click()
    expect(page.locator("#notice")).to_have_text("2 jobs are canceled.")
    expect(page).to_have_url(re.compile(f"group={group}"))

    def with_all(action: str, words: str) -> None:
        page.get_by_label("Which jobs").select_option("all")
        page.locator("#action").select_option(action)
        page.get_by_role("button", name="Preview").click()
        page.get_by_role("button", name=words).click()

    with_all("retry", "Retry 2 jobs")
    expect(page.locator("#notice")).to_have_text("2 jobs are queued again.")
    assert {api.job(job["id"])["status"] for job in jobs} == {"pending"}
    with_all("hold", "Hold 4 jobs")
    with_all("resume", "Resume 4 jobs")
    expect(page.locator("#notice")).to_have_text("4 jobs are resumed.")
    with_all("delete", "Delete for good 4 jobs")
    expect(page.locator("#notice")).to_have_text("4 jobs are deleted.")
    expect(page.locator("#live")).to_contain_text("No job matches")
    assert api.request("GET", f"/jobs/{jobs[0]['id']}")[0] == 404
    user.go("/audit")
    for words in ("cancel jobs", "retry jobs", "delete jobs", "log in"):
        expect(page.locator("tbody")).to_contain_text(words)


def test_a_node_is_unbanned_and_replaced(user: Person, api: ApiUser) -> None:
    scenery = paint(api)
    page = user.go("/nodes/node-a")
    page.get_by_role("button", name="Unban").first.click()
    expect(page.locator("#notice")).to_contain_text("The bans are lifted")
    assert api.job(scenery.running)["banned_nodes"] == []
    user.go("/nodes/node-c")
    page.get_by_role("button", name="Drain").click()
    expect(page.locator("#live")).to_contain_text("drained")
    assert [one["machine_id"] for one in api.ok("GET", "/nodes/drained")["nodes"]] == ["node-c"]
    page.get_by_role("button", name="Give it jobs again").click()
    expect(page.locator("#notice")).to_contain_text("gets jobs again")
    page.get_by_role("button", name="Reallocate").click()
    expect(page.locator("#notice")).to_contain_text("node-c is to be replaced")


def test_a_scaling_rule_is_tried_out_before_it_is_kept(user: Person, api: ApiUser) -> None:
    scenery = paint(api)
    page = user.go(f"/groups/{group_number(api, scenery.group)}")
    page.get_by_label("At most").fill("2")
    page.get_by_role("button", name="Try it out").click()
    expect(page.locator("#decision")).to_contain_text("Now it would: start. 3 jobs")
    assert api.ok("GET", f"/scaling-rules/{scenery.group}")["max_replicas"] == 8
    page.get_by_role("button", name="Keep").click()
    expect(page.locator("#notice")).to_contain_text("The rule is kept")
    assert api.ok("GET", f"/scaling-rules/{scenery.group}")["max_replicas"] == 2
    page.get_by_label("Nodes, at least").fill("7")
    page.get_by_role("button", name="Keep").click()
    expect(page.get_by_role("alert")).to_contain_text("min_replicas must not be above")


def test_a_job_is_submitted_again_with_edits(user: Person, api: ApiUser) -> None:
    scenery = paint(api)
    page = user.go(f"/jobs/{scenery.completed}")
    page.get_by_role("link", name="Resubmit with edits").click()
    text = page.get_by_label("The job").input_value()
    page.get_by_label("The job").fill(text.replace("20000", "40000"))
    expect(page.locator("#check")).to_contain_text("40000")
    page.get_by_role("button", name="Submit", exact=True).click()
    expect(page.locator(".command-line")).to_have_text("python relax.py --steps 40000")
    again = api.job(page.url.rpartition("/")[2])
    before = api.job(scenery.completed)
    assert again["id"] != before["id"]
    assert again["labels"] == before["labels"]


def test_a_list_follows_what_happens_and_keeps_what_was_chosen(user: Person, api: ApiUser) -> None:
    group = f"group-{uuid.uuid4().hex[:8]}"
    first = api.submit(job_body(container_group_id=group))
    page = user.go(f"/jobs?group={group}")
    page.get_by_label(f"Choose job {first['id']}").check()
    mark(page)
    second = api.submit(job_body(container_group_id=group))
    report(api, lease(api, group, "node-x"), "completed")
    expect(page.locator(f"#job-{first['id']} .badge")).to_have_text("completed")
    expect(page.locator(f"#job-{second['id']}")).to_be_visible()
    expect(page.get_by_label(f"Choose job {first['id']}")).to_be_checked()
    assert is_marked(page)
