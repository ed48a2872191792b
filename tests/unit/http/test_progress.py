"""Progress over HTTP: from a heartbeat to the job and the lists, to its owner alone, and bounded."""

from __future__ import annotations

from typing import Any

from flask import Flask

from kelpie.progress import MAX_METRICS
from kelpie.store import Store
from tests.unit.http.conftest import ME


def test_a_job_and_a_list_show_what_its_command_says(app: Flask, store: Store, leased: Any) -> None:
    client, headers, job = leased
    address = f"/jobs/{job['id']}"
    assert "progress" not in client.get(address, headers=headers).get_json()
    told = {"fraction": 0.5, "step": 1.5, "total": 3, "metrics": {"loss": 2}, "age_s": 0.5, "rate": 0.1}
    beat = ME | {"lease": job["lease"], "progress": told | {"checkpoint_age_s": 9}}
    assert client.post(f"{address}/heartbeat", json=beat, headers=headers).get_json()["status"] == "running"
    shown = client.get(address, headers=headers).get_json()["progress"]
    assert (shown["fraction"], shown["step"], shown["total"]) == (0.5, 1.5, 3)
    assert (shown["metrics"], shown["attempt"]) == ({"loss": 2}, 1)
    assert shown["checkpoint"] < shown["updated"] < shown["eta"]
    [listed] = client.get("/jobs", headers=headers).get_json()["jobs"]
    assert listed["progress"] == {name: value for name, value in shown.items() if name != "metrics"}
    other = store.users.create("other")
    others = {"X-Kelpie-Key": store.users.create_key(other.id, "org", "project")}
    assert client.get(address, headers=others).status_code == 404
    client.post(f"{address}/completed", json=ME | {"lease": job["lease"]}, headers=headers)
    assert client.get(address, headers=headers).get_json()["progress"] == shown | {"eta": None}


HOSTILE: list[Any] = [
    {"fraction": 1.5},
    {"fraction": "0.5"},
    {"fraction": True},
    {"step": -1},
    {"total": 1e300},
    {"metrics": {"x": "1"}},
    {"metrics": {"\x1b[2J": 1}},
    {"metrics": {"": 1}},
    {"metrics": {"n" * 49: 1}},
    {"metrics": {str(n): 1 for n in range(MAX_METRICS + 1)}},
    {"age_s": -1},
    {"checkpoint_age_s": 1e10},
    {"rate": 1e9},
    [],
]


def test_what_is_out_of_bounds_is_refused(leased: Any) -> None:
    client, headers, job = leased
    for hostile in HOSTILE:
        beat = ME | {"lease": job["lease"], "progress": hostile}
        answer = client.post(f"/jobs/{job['id']}/heartbeat", json=beat, headers=headers)
        assert answer.status_code == 400, hostile
        assert answer.get_json()["errors"][0]["path"].startswith("progress")
    assert "progress" not in client.get(f"/jobs/{job['id']}", headers=headers).get_json()
