"""Lists by cursor, label, node and text."""

from __future__ import annotations

import uuid
from urllib.parse import quote

import pytest

from kelpie.http import replies
from tests.api import ApiUser
from tests.factories import job_body
from tests.system.contract import lease, refused


def listed(api: ApiUser, query: str = "") -> list[str]:
    """The ids of one page, which must be of the one shape."""
    page = api.ok("GET", f"/jobs?{query}")
    replies.JobPageReply.model_validate(page)
    assert page["_count"] == len(page["jobs"])
    return [job["id"] for job in page["jobs"]]


def walked(api: ApiUser, query: str = "") -> list[str]:
    """The ids of all pages, by their cursors."""
    ids: list[str] = []
    cursor = ""
    for _ in range(100):
        page = api.ok("GET", f"/jobs?{query}{cursor}")
        ids += [job["id"] for job in page["jobs"]]
        if page["next_cursor"] is None:
            return ids
        cursor = f"&cursor={quote(page['next_cursor'])}"
    raise AssertionError("the list does not end")


def test_a_list_without_new_parameters_keeps_its_shape(api: ApiUser, group: str) -> None:
    assert api.ok("GET", "/jobs") == {"_count": 0, "jobs": [], "next_cursor": None}
    job = api.submit(job_body(container_group_id=group))
    page = api.ok("GET", "/jobs?page_size=100&page=1&asc=false")
    assert page == {"_count": 1, "jobs": [api.ok("GET", f"/jobs/{job['id']}")], "next_cursor": None}


@pytest.mark.parametrize("asc", ["true", "false"])
def test_cursors_lead_through_all_jobs_without_gap_or_repeat(api: ApiUser, group: str, asc: str) -> None:
    batch = [job_body(container_group_id=f"{group}-{i % 3}") for i in range(25)]
    ids = [job["id"] for job in api.ok("POST", "/jobs/batch", json=batch)]
    api.ok("DELETE", f"/jobs/{ids[3]}")
    found = walked(api, f"page_size=4&asc={asc}")
    assert sorted(found) == sorted(ids)
    in_one = listed(api, f"asc={asc}")
    assert found == in_one
    # from a numbered page on too
    second = api.ok("GET", f"/jobs?page_size=10&page=2&asc={asc}")
    rest = listed(api, f"page_size=10&asc={asc}&cursor={second['next_cursor']}")
    assert [job["id"] for job in second["jobs"]] + rest == in_one[10:]
    assert listed(api, f"page=1&cursor={second['next_cursor']}&page_size=10&asc={asc}") == rest


def test_jobs_are_found_by_status_group_label_node_and_text(
    api: ApiUser, other: ApiUser, admin: ApiUser, group: str
) -> None:
    mark = uuid.uuid4().hex
    both = api.submit(job_body(container_group_id=group, labels={"sweep": mark, "ü x": "a=b&c"}))
    one = api.submit(job_body(container_group_id=f"{group}-b", labels={"sweep": mark}))
    text = api.submit(job_body(container_group_id=group, arguments=["Größe", f"--x={mark}"]))
    theirs = other.submit(job_body(container_group_id=group, labels={"sweep": mark}))
    assert lease(api, group, "n 1") is not None
    sweep = f"label=sweep={mark}"
    exact = f"label={quote('ü x=a=b&c')}"
    assert listed(api, sweep) == [one["id"], both["id"]]
    assert listed(api, f"{sweep}&asc=true") == [both["id"], one["id"]]
    assert listed(api, f"{sweep}&{exact}") == listed(api, f"{exact}&{sweep}&{sweep}") == [both["id"]]
    assert listed(api, f"{sweep}&container_group_id={group}-b") == [one["id"]]
    assert listed(api, f"{sweep}&status=running") == [both["id"]]
    assert listed(api, f"{sweep}0") == listed(api, "label=sweep=") == []
    assert listed(api, "machine_id=n%201") == [both["id"]]
    assert listed(api, "machine_id=n%201&status=pending") == listed(api, "machine_id=n%202") == []
    assert listed(api, f"q={mark}") == [text["id"], one["id"], both["id"]]
    assert listed(api, f"q={quote('GRÖSSE')}") == [text["id"]]
    assert listed(api, f"q={text['id'][:13]}") == [text["id"]]
    assert listed(api, f"q={mark}&machine_id=n%201&{exact}&status=running&page=1") == [both["id"]]
    assert listed(other, sweep) == listed(other, f"q={mark}") == [theirs["id"]]
    assert listed(other, "machine_id=n%201") == []
    assert len(listed(admin, sweep)) == 3


@pytest.mark.parametrize(
    ("query", "path"),
    [
        *((f"{filter_}&page=2", "") for filter_ in ("label=a=b", "machine_id=n", "q=x", "cursor=MSAx")),
        *((f"cursor={cursor}", "cursor") for cursor in ("x", "%21%21", "MTIzNA", "%C3%BC", "a" * 129)),
        *((f"label={label}", "label") for label in ("a", "=b", "x" * 193, "a%00")),
        ("label=a=b&label=a=c", "label"),
        ("&".join(f"label={i}=x" for i in range(17)), "label"),
        (f"machine_id={'x' * 129}", "machine_id"),
        ("machine_id=a%0Ab", "machine_id"),
        (f"q={'x' * 257}", "q"),
    ],
)
def test_a_wrong_search_is_400_and_named(api: ApiUser, query: str, path: str) -> None:
    body = refused(api.request("GET", f"/jobs?{query}"), 400, "Invalid Input")
    assert body["errors"][0]["path"].split(".")[0] == path
