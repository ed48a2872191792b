from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask
from markupsafe import escape

from kelpie.http.context import services
from kelpie.job import Holder, iso
from kelpie.progress import ProgressReport
from kelpie.store import Store
from kelpie.store.history import Sample
from kelpie.store.keys import QueueKeys, history
from kelpie_web import show
from tests.factories import GROUP, spec
from tests.unit.web.conftest import Browser, LogIn


def test_the_figures_agree_with_the_api(app: Flask, store: Store, log_in: LogIn) -> None:
    browser = log_in()
    jobs = store.submit(browser.user_id, [spec() for _ in range(12)])
    for job in jobs[:2]:
        store.cancel(job.id)
    for node in ("a", "b", "c"):
        store.lease(browser.user_id, jobs[0].spec.container_group_id, node, "")
    text = browser.client.get("/ui").text
    shown = dict(re.findall(r'data-figure="([\w ]+)">([\d,]+)<', text))
    assert {name: int(shown[name]) for name in ("running", "pending", "canceled", "busy nodes")} == {
        "running": 3,
        "pending": 7,
        "canceled": 2,
        "busy nodes": 3,
    }


def test_a_list_goes_on_from_cursors_and_shows_every_job_once(store: Store, log_in: LogIn) -> None:
    browser = log_in()
    jobs = store.submit(browser.user_id, [spec(labels={"n": str(n % 2)}) for n in range(130)])
    for query, wanted in (("", jobs), ("?label=n%3D1", jobs[1::2]), ("?asc=1&status=pending", jobs[::-1])):
        seen: list[str] = []
        address = f"/ui/jobs{query}"
        while address:
            text = browser.client.get(address).text
            seen += re.findall(r'id="job-([0-9a-f-]{36})"', text)
            onward = re.search(r'rel="next" href="([^"]+)"', text)
            address = onward[1].replace("&amp;", "&") if onward else ""
        assert seen == [job.id for job in reversed(wanted)]


def test_what_one_bulk_changes_is_bounded_and_only_what_was_counted(
    app: Flask, store: Store, log_in: LogIn
) -> None:
    browser = log_in()
    first = store.submit(browser.user_id, [spec() for _ in range(1000)])
    store.submit(browser.user_id, [spec() for _ in range(5)])
    asked = browser.post("/ui/jobs/bulk", action="cancel", which="all")
    ids = re.search(r'name="ids" value="([^"]+)"', asked.text)
    assert ids is not None
    assert "Cancel 1,000 jobs?" in asked.text
    assert "More jobs match" in asked.text
    late = store.submit(browser.user_id, [spec()])[0]
    store.cancel(ids[1].split()[0])
    done = browser.post("/ui/jobs/bulk/confirmed", action="cancel", ids=ids[1])
    assert done.status_code == 303
    assert "1,000 jobs are canceled" in browser.client.get("/ui/jobs").text
    assert store.get(late.id).status == "pending"
    assert sum(store.get(job.id).status == "pending" for job in first) == 5
    too_many = browser.post("/ui/jobs/bulk/confirmed", action="cancel", ids=" ".join(map(str, range(1001))))
    assert too_many.status_code == 400
    for priority in ("", "256", "-1", "much", "٣"):
        asked = browser.post("/ui/jobs/bulk/confirmed", action="prioritize", ids=late.id, priority=priority)
        assert (asked.status_code, "priority" in asked.text) == (400, True)
    assert browser.post("/ui/jobs/bulk/confirmed", action="explode", ids=late.id).status_code == 400
    assert browser.post("/ui/jobs/bulk/confirmed", action="cancel", ids="").status_code == 303


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"command": ""}, "say what is to be run"),
        ({"command": "sh -c 'x"}, "a quote is not closed"),
        ({"container_group_id": ""}, "name the group"),
        ({"priority": "much"}, "is no whole number"),
        ({"priority": "256"}, "priority"),
        ({"environment": "novalue"}, "is not NAME=value"),
        ({"sync": "sideways b/p /d"}, "is not: before, during or after"),
        ({"sync": "during b/p"}, "is not: before, during or after"),
        ({"sync": "during b/p /d ("}, "sync.during.0.pattern"),
        ({"webhook": "ftp://x"}, "webhook"),
        ({"not_before": "tomorrow"}, "not_before"),
        ({"way": "json", "json": "{"}, "This is not JSON"),
        ({"way": "json", "json": "[]"}, "not an object"),
        ({"way": "json", "json": "[" * 50_000}, "This is not JSON"),
        ({"way": "json", "json": '{"command": "\\ud800", "container_group_id": "g", "sync": {}}'}, ""),
    ],
)
def test_what_is_wrong_with_a_submit_is_told_where_it_was_typed(
    log_in: LogIn, store: Store, fields: dict[str, str], problem: str
) -> None:
    browser = log_in()
    typed = {"command": "true", "container_group_id": "g"} | fields
    for path, status in (("/ui/submit/check", 200), ("/ui/submit", 400)):
        answer = browser.post(path, **typed)
        assert (answer.status_code, problem in answer.text) == (status, True), answer.text
        assert 'id="problems"' in answer.text
    assert store.queues(browser.user_id) == []


def test_the_form_submits_what_was_typed(log_in: LogIn, store: Store) -> None:
    browser = log_in()
    typed = {
        "command": "python 'my sim.py' --n 3",
        "container_group_id": "g",
        "environment": "A=1\nB=x=y\n",
        "labels": "sweep=7",
        "sync": "before s3://b/in /in\nduring b/ckpt/ '/a folder' \\.pt$\n\n",
        "priority": "9",
        "compression": "1",
    }
    answer = browser.post("/ui/submit", **typed)
    job = store.get(answer.location.rpartition("/")[2], user_id=browser.user_id)
    assert (job.spec.command, job.spec.arguments) == ("python", ("my sim.py", "--n", "3"))
    assert (job.spec.environment, job.spec.labels) == ({"A": "1", "B": "x=y"}, {"sweep": "7"})
    assert (job.spec.priority, job.spec.compression) == (9, True)
    assert job.spec.sync is not None
    [before], [during] = job.spec.sync.before, job.spec.sync.during
    assert (before.bucket, before.prefix, before.local_path) == ("b", "in/", "/in")
    assert (during.prefix, during.local_path, during.pattern) == ("ckpt/", "/a folder", ".pt$")


def test_the_jobs_page_looks_at_a_page_of_jobs_however_many_there_are(
    app: Flask, store: Store, log_in: LogIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = log_in()

    def commands(path: str) -> int:
        before: Any = store.redis.info("commandstats")
        assert browser.client.get(path).status_code == 200
        after: Any = store.redis.info("commandstats")
        return sum(stats["calls"] for stats in after.values()) - sum(
            stats["calls"] for stats in before.values()
        )

    paths = ("/ui/jobs", "/ui/jobs?status=pending", "/ui/jobs?label=a%3D1", "/ui", "/ui/groups")
    store.submit(browser.user_id, [spec(labels={"a": "1"}) for _ in range(100)])
    few = {path: commands(path) for path in paths}
    for _ in range(3):
        store.submit(browser.user_id, [spec(labels={"a": "1"}) for _ in range(1000)])
    many = {path: commands(path) for path in paths}
    slack = 500  # a search by label reads chunks of 200 jobs
    assert all(many[path] <= few[path] + slack for path in paths), (few, many)


def test_a_defect_is_a_page_with_an_id_and_no_trace(
    app: Flask, log_in: LogIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = log_in()

    def broken(*_args: Any, **_how: Any) -> None:
        raise RuntimeError("the secret of the kitchen")

    monkeypatch.setattr(services(app).store, "search", broken)
    answer = browser.client.get("/ui/jobs")
    assert answer.status_code == 500
    assert answer.headers["X-Request-Id"] in answer.text
    assert "kitchen" not in answer.text


def test_every_change_is_in_the_audit_of_who_made_it_and_in_the_admins(
    app: Flask, store: Store, log_in: LogIn, admin: Browser
) -> None:
    ada, ben = log_in("ada"), log_in("ben")
    key = store.users.create_key(ada.user_id, "org", "project")
    by_api = {"headers": {"X-Kelpie-Key": key}}
    job = app.test_client().post(
        "/jobs", json={"command": "true", "container_group_id": "g", "sync": {}}, **by_api
    )
    job_id = job.get_json()["id"]
    ada.post(f"/ui/jobs/{job_id}/hold")
    app.test_client().delete(f"/jobs/{job_id}", **by_api)
    app.test_client().delete("/jobs/unknown", **by_api)  # refused: nothing was done
    services(app).notes.flush()
    entries, _ = store.audit.page(ada.user_id)
    deeds = [(one.deed.action, one.deed.target, one.deed.via) for one in entries]
    assert sorted(deeds) == sorted(
        [
            ("log in", "", "pages"),
            ("hold a job", job_id, "pages"),
            ("cancel a job", job_id, "api"),
            ("submit jobs", "", "api"),
        ]
    )
    assert job_id in ada.client.get("/ui/audit").text
    assert job_id not in ben.client.get("/ui/audit").text
    assert job_id in admin.client.get("/ui/audit").text
    assert ada.client.get("/ui/audit?cursor=x").status_code == 400


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        (0, "0 s"),
        (59_499, "59 s"),
        (60_000, "1 min"),
        (3_725_000, "1 h 2 min"),
        (90_000_000, "1 d 1 h"),
        (None, "–"),
        (-5, "0 s"),
    ],
)
def test_durations_are_told_in_their_two_largest_units(ms: int | None, words: str) -> None:
    assert show.lasted(ms) == words


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 B"), (999, "999 B"), (12_345, "12.3 kB"), (5e9, "5 GB"), (2e12, "2 TB")]
)
def test_sizes_are_told_in_the_unit_that_fits(number: float, words: str) -> None:
    assert show.size(number) == words


def test_the_page_of_a_job_shows_progress_and_metrics_as_text(store: Store, log_in: LogIn) -> None:
    browser = log_in()
    [job] = store.submit(browser.user_id, [spec()])
    address = f"/ui/jobs/{job.id}"
    assert "<progress" not in browser.client.get(address).text
    lease = store.lease(browser.user_id, job.spec.container_group_id, "a", "")
    assert lease is not None
    name = "<script>alert(1)</script>"
    said = ProgressReport(0.4215, 4215, 10_000, {name: 0.5}, checkpoint_age_s=3, rate=0.01)
    store.heartbeat(job.id, Holder("a", lease.secret), progress=said)
    text = browser.client.get(address).text
    assert '<progress class="w-100" max="1" value="0.4215"' in text
    assert "4,215 of 10,000" in text
    assert "May be done" in text
    assert name not in text
    assert f'data-metric="{escape(name)}">0.5<' in text


def test_the_day_is_told_from_samples_and_says_since_when_they_are(
    store: Store, log_in: LogIn, admin: Browser
) -> None:
    ada, ben = log_in("ada"), log_in("ben")
    store.submit(ada.user_id, [spec()])
    queue = store.find_queue(ada.user_id, GROUP)
    assert queue is not None

    def shown(browser: Browser) -> tuple[str, dict[str, str]]:
        text = browser.client.get("/ui").text
        return text, dict(re.findall(r'data-figure="([\w ]+)">([^<]+)<', text))

    text, figures = shown(ada)
    assert "No sample yet" in text
    assert "<polyline" not in text
    assert figures["empty in"] == "–"
    now_ms = store.events.now_ms()
    for minute in range(120, 0, -1):  # four nodes that complete a job a minute, and lose a quarter of it
        told = Sample(running=4, leased=4, completed=880 - minute, lost_ms=(120 - minute) * 60_000)
        store.histories.add({ada.user_id: told, None: told}, at_ms=now_ms - minute * 60_000)
    totals: Any = {"completed": 880, "failed": 3, "lost_ms": 120 * 60_000}
    store.redis.hset(QueueKeys(queue.number).counters, mapping=totals)
    for who in (ada, admin):
        text, figures = shown(who)
        assert f'Since <time datetime="{iso(now_ms - 120 * 60_000)[:19]}' in text
        assert text.count("<polyline") == 4
        assert (figures["ended well"], figures["ended badly"]) == ("120", "3")
        assert figures["work lost"] == "2 h"
        assert figures["goodput"] == "74.9 %"  # of the last minute nodes had a job for half
        assert figures["empty in"] == "57 s"  # one job is left, and 63 ended within an hour
    assert "No sample yet" in shown(ben)[0]
    long_ago = Sample(leased=4, completed=100)
    store.redis.delete(history(ada.user_id))
    store.histories.add({ada.user_id: long_ago}, at_ms=now_ms - 25 * 3_600_000)
    text, figures = shown(ada)
    assert "The last 24 hours" in text
    assert figures["ended well"] == "780"


def test_the_reference_tells_every_call_and_model_and_leads_nowhere_else(app: Flask, log_in: LogIn) -> None:
    text = log_in().client.get("/ui/api").text
    document = app.test_client().get("/openapi.json").get_json()
    told = set(re.findall(r'<details class="call" id="(\w+)"', text))
    assert told == {one["operationId"] for path in document["paths"].values() for one in path.values()}
    places = set(re.findall(r'id="(model-\w+)"', text))
    assert places == {f"model-{name}" for name in document["components"]["schemas"]}
    assert set(re.findall(r'href="#(model-\w+)"', text)) <= places
    assert "POST /jobs/{job_id}/prioritize" in text
    assert "integer, 0…255" in text
