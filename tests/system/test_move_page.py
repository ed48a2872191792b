"""The script of docs/how-to/move-from-public-kelpie.md moves what has not ended, once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from kelpie.job import LEGACY_KEYS
from tests.api import ApiUser
from tests.factories import job_body

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "move-from-public-kelpie.md"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, api: ApiUser) -> dict[str, Any]:
    """What the script of the page defines."""
    for name, value in {"KELPIE_API_URL": api.url, "KELPIE_API_KEY": api.key, "SALAD_API_KEY": "k"}.items():
        monkeypatch.setenv(name, value)
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    names: dict[str, Any] = {"__name__": "move"}
    exec(code, names)  # noqa: S102 - it is ours
    return names


def test_jobs_that_have_not_ended_move_once_with_all_that_defines_them(
    script: dict[str, Any], api: ApiUser, other: ApiUser, group: str
) -> None:
    old, new = {"X-Kelpie-Key": other.key}, script["NEW_HEADERS"]
    sent = [
        job_body(container_group_id=group, arguments=["-c", "x"], environment={"A": "b"}, max_failures=7),
        job_body(container_group_id=group, sync=None, **dict.fromkeys(LEGACY_KEYS, "x")),
    ]
    there = [other.submit(body) for body in sent]
    poll = other.ok("GET", f"/work?machine_id=n&container_group_id={group}")
    assert poll[0]["status"] == "running"
    ended = other.submit(job_body(container_group_id=group))
    other.ok("DELETE", f"/jobs/{ended['id']}")

    # Stopped after the first job was submitted here, and run again.
    half = {key: there[0][key] for key in script["DEFINITION"] if there[0].get(key) is not None}
    first = script["ask"]("POST", f"{api.url}/jobs", {**new, "Idempotency-Key": there[0]["id"]}, half)
    moved = script["move"](other.url, old, api.url, new)
    assert moved[there[0]["id"]] == first["id"]

    assert set(moved) == {job["id"] for job in there}
    for job in there:
        assert other.job(job["id"])["status"] == "canceled"
        here = api.job(moved[job["id"]])
        assert here["status"] == "pending"
        assert {key: here.get(key) for key in script["DEFINITION"]} == {
            key: job.get(key) for key in script["DEFINITION"]
        }
    assert api.ok("GET", f"/jobs?container_group_id={group}")["_count"] == 2
    assert script["move"](other.url, old, api.url, new) == {}
