"""Transfers over HTTP: from a heartbeat to the job, to its owner alone, and bounded."""

from __future__ import annotations

from typing import Any

from kelpie.http.job_models import MAX_ENTRIES
from kelpie.store import Store
from kelpie.transfers import EntryTransfers
from tests.unit.http.conftest import ME


def test_a_job_tells_what_was_moved_when_it_is_asked(store: Store, leased: Any) -> None:
    client, headers, job = leased
    address = f"/jobs/{job['id']}"

    def expanded(headers: dict[str, str]) -> Any:
        return client.get(f"{address}?expand=transfers", headers=headers)

    assert expanded(headers).get_json()["transfers"] is None
    told = {"before": [{"state": "done", "files": 3, "bytes": 10, "last_age_s": 2}, {}], "after": None}
    beat = ME | {"lease": job["lease"], "transfers": told | {"unknown": 1}}
    assert client.post(f"{address}/heartbeat", json=beat, headers=headers).get_json()["status"] == "running"
    shown = expanded(headers).get_json()["transfers"]
    assert (shown["attempt"], shown["during"], shown["after"]) == (1, [], [])
    first, second = shown["before"]
    assert (first["state"], first["files"], first["bytes"], first["waiting_files"]) == ("done", 3, 10, 0)
    assert first["last"] < shown["updated"]
    assert (second["state"], second["files"], second["last"]) == ("waiting", 0, None)
    assert "transfers" not in client.get(address, headers=headers).get_json()
    other = store.users.create("other")
    assert expanded({"X-Kelpie-Key": store.users.create_key(other.id, "o", "p")}).status_code == 404


HOSTILE: list[Any] = [
    {"before": [{"files": -1}]},
    {"before": [{"files": 2**53 + 1}]},
    {"during": [{"bytes": "1"}]},
    {"during": [{"unchanged": True}]},
    {"during": [{"waiting_bytes": 1e300}]},
    {"after": [{"state": "\x1b[2J"}]},
    {"after": [{"last_age_s": -1}]},
    {"after": [{"last_age_s": 1e10}]},
    {"after": {"0": {}}},
    {"before": [{}] * (MAX_ENTRIES + 1)},
    [],
]


def test_what_is_out_of_bounds_is_refused(leased: Any) -> None:
    client, headers, job = leased
    for hostile in HOSTILE:
        beat = ME | {"lease": job["lease"], "transfers": hostile}
        answer = client.post(f"/jobs/{job['id']}/heartbeat", json=beat, headers=headers)
        assert answer.status_code == 400, hostile
        assert answer.get_json()["errors"][0]["path"].startswith("transfers")
    shown = client.get(f"/jobs/{job['id']}?expand=transfers", headers=headers).get_json()
    assert shown["transfers"] is None


def test_the_names_of_the_figures_are_the_same_in_all_models() -> None:
    from kelpie.http.replies import EntryTransfersReply
    from kelpie.http.work_models import EntryTransfersBody

    names = set(EntryTransfers.__dataclass_fields__)
    assert set(EntryTransfersBody.model_fields) == names
    assert set(EntryTransfersReply.model_fields) == names - {"last_age_s"} | {"last"}
