"""Polls, heartbeats and reports: the calls of a node."""

from __future__ import annotations

import json
import socket
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest

from kelpie.http import replies
from tests.api import ApiUser
from tests.factories import job_body
from tests.system.contract import (
    NEW_KEYS,
    OLD_KEYS,
    REPORTS,
    TIME,
    lease,
    leased,
    refused,
    report,
)
from tests.waiting import wait_until


def test_work_is_empty_or_one_job_that_is_running_now(api: ApiUser, group: str) -> None:
    assert lease(api, group) is None
    submitted = api.submit(job_body(container_group_id=group))
    job = lease(api, group, "node-7")
    assert job is not None
    replies.WorkListReply.model_validate([job])
    assert (job["id"], job["status"], job["machine_id"], job["attempt"]) == (
        submitted["id"],
        "running",
        "node-7",
        1,
    )
    assert all(TIME.match(job[name]) for name in ("started", "heartbeat", "lease_expires"))
    assert set(job) == OLD_KEYS | NEW_KEYS | {"lease", "lease_expires", "fence"}
    assert lease(api, group, "node-8") is None


def test_stale_running_jobs_come_before_pending_ones_and_the_oldest_first(api: ApiUser, group: str) -> None:
    oldest, second, third = (api.submit(job_body(container_group_id=group))["id"] for _ in range(3))
    api.ok("POST", f"/jobs/{oldest}/hold")
    stale = lease(api, group)
    assert stale is not None
    assert stale["id"] == second
    api.ok("POST", f"/jobs/{oldest}/resume")
    api.ok("POST", f"/jobs/{second}/released", json=report(group))
    polls = [lease(api, group, f"node-{number}") for number in range(3)]
    assert [job and job["id"] for job in polls] == [second, oldest, third]


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("container_group_id=g", "machine_id"),
        ("machine_id=n", "container_group_id"),
        ("machine_id=&container_group_id=g", "machine_id"),
        ("machine_id=n&container_group_id=", "container_group_id"),
        (f"machine_id={'x' * 129}&container_group_id=g", "machine_id"),
        (f"machine_id=n&container_group_id={'x' * 257}", "container_group_id"),
        ("machine_id=a%0Ab&container_group_id=g", "machine_id"),
        ("machine_id=n&container_group_id=g&wait=21", "wait"),
        ("machine_id=n&container_group_id=g&wait=-1", "wait"),
        ("machine_id=n&container_group_id=g&wait=nan", "wait"),
    ],
)
def test_work_for_nobody_in_particular_is_400(api: ApiUser, query: str, path: str) -> None:
    assert path in [error["path"] for error in refused(api.request("GET", f"/work?{query}"), 400)["errors"]]


def test_a_long_poll_is_answered_when_a_job_comes(api: ApiUser, group: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(api.ok, "GET", f"/work?machine_id=n&container_group_id={group}&wait=20")
        job = api.submit(job_body(container_group_id=group))
        assert [got["id"] for got in poll.result(timeout=15)] == [job["id"]]


def test_a_long_poll_without_a_job_is_an_empty_list(api: ApiUser, group: str) -> None:
    assert api.ok("GET", f"/work?machine_id=n&container_group_id={group}&wait=0.2") == []


def test_a_poll_repeated_after_a_lost_answer_gives_the_same_lease(api: ApiUser, group: str) -> None:
    for _ in range(2):
        api.submit(job_body(container_group_id=group))
    same = {"Idempotency-Key": uuid.uuid4().hex}
    first, again = (lease(api, group, headers=same) for _ in range(2))
    assert first is not None
    assert again is not None
    assert (first["id"], first["lease"], first["attempt"]) == (again["id"], again["lease"], again["attempt"])
    other_poll = lease(api, group, headers={"Idempotency-Key": uuid.uuid4().hex})
    assert other_poll is not None
    assert other_poll["id"] != first["id"]


@pytest.mark.parametrize("key", ["short", "x" * 129, "a b" * 10])
def test_a_wrong_idempotency_key_is_400(api: ApiUser, group: str, key: str) -> None:
    path = f"/work?machine_id=n&container_group_id={group}"
    refused(api.request("GET", path, headers={"Idempotency-Key": key}), 400, "Invalid Input")


def test_a_poll_sees_the_callers_own_jobs_only(api: ApiUser, other: ApiUser, group: str) -> None:
    api.submit(job_body(container_group_id=group))
    assert lease(other, group) is None


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize(
    "wrong",
    [
        {"machine_id": None},
        {"machine_id": ""},
        {"machine_id": 5},
        {"machine_id": "x" * 129},
        {"container_group_id": None},
        {"container_group_id": ["g"]},
        {"lease": 5},
    ],
)
def test_a_report_by_nobody_in_particular_is_400(
    api: ApiUser, group: str, name: str, wrong: dict[str, Any]
) -> None:
    job = leased(api, group)
    body = refused(api.request("POST", f"/jobs/{job['id']}/{name}", json=report(group) | wrong), 400)
    assert [error["path"] for error in body["errors"]] == list(wrong)


@pytest.mark.parametrize("with_lease", [True, False])
def test_a_heartbeat_is_200_and_renews_the_lease(api: ApiUser, group: str, with_lease: bool) -> None:
    job = leased(api, group)
    body = report(group, lease=job["lease"]) if with_lease else report(group)
    status, _, answer = api.request("POST", f"/jobs/{job['id']}/heartbeat", json=body)
    assert (status, answer["status"], answer["reason"]) == (200, "running", None)
    assert answer["lease_expires"] >= job["lease_expires"]
    replies.HeartbeatReply.model_validate(answer)


def test_what_a_node_has_to_upload_is_told_with_its_heartbeats(api: ApiUser, group: str) -> None:
    job = leased(api, group)
    assert "upload_backlog" not in api.ok("GET", f"/jobs/{job['id']}")
    backlog = {"files": 3, "bytes": 4000.0, "oldest_s": 2.5}
    api.ok("POST", f"/jobs/{job['id']}/heartbeat", json=report(group, upload_backlog=backlog))
    assert api.ok("GET", f"/jobs/{job['id']}")["upload_backlog"] == backlog


def test_what_a_command_says_of_its_progress_is_told_with_heartbeats(api: ApiUser, group: str) -> None:
    job = leased(api, group)
    assert "progress" not in api.ok("GET", f"/jobs/{job['id']}")
    said = {"fraction": 0.25, "step": 5, "total": 20, "metrics": {"loss": 0.5}}
    api.ok("POST", f"/jobs/{job['id']}/heartbeat", json=report(group, progress=said))
    told = api.ok("GET", f"/jobs/{job['id']}")["progress"]
    replies.ProgressReply.model_validate(told)
    assert told == told | said | {"attempt": 1, "checkpoint": None}


def test_expand_adds_how_progress_was_over_two_attempts_oldest_first(
    api: ApiUser, other: ApiUser, group: str
) -> None:
    job = leased(api, group, "node-1")
    path = f"/jobs/{job['id']}?expand=progress_history"
    assert api.ok("GET", path)["progress_history"] == []
    said: dict[str, Any] = {"fraction": 0.5, "step": 5, "metrics": {"<b>loss</b>": 0.25}}
    beat = report(group, "node-1", progress=said | {"total": 10})
    api.ok("POST", f"/jobs/{job['id']}/heartbeat", json=beat)
    api.ok("POST", f"/jobs/{job['id']}/failed", json=report(group, "node-1"))
    lease(api, group, "node-2")
    api.ok("POST", f"/jobs/{job['id']}/heartbeat", json=report(group, "node-2", progress={"fraction": 0.25}))
    found = api.ok("GET", path)
    replies.JobReply.model_validate(found)
    first, second = found["progress_history"]
    assert first == {"time": first["time"], "attempt": 1} | said
    assert second == {"time": second["time"], "attempt": 2, "fraction": 0.25, "step": None, "metrics": {}}
    assert job["heartbeat"] <= first["time"] < second["time"]
    assert {"attempts", "progress_history"} & api.ok("GET", f"/jobs/{job['id']}").keys() == set()
    refused(other.request("GET", path), 404, "Not Found")


def test_expand_adds_what_nodes_say_they_have_moved(api: ApiUser, group: str) -> None:
    job = leased(api, group)
    path = f"/jobs/{job['id']}?expand=transfers"
    assert api.ok("GET", path)["transfers"] is None
    said = {"during": [{"state": "moving", "files": 2.0, "bytes": 90, "waiting_files": 1, "last_age_s": 1.5}]}
    api.ok("POST", f"/jobs/{job['id']}/heartbeat", json=report(group, transfers=said))
    told = api.ok("GET", path)["transfers"]
    replies.TransfersReply.model_validate(told)
    assert (told["attempt"], told["before"], told["after"]) == (1, [], [])
    assert told["during"][0] == told["during"][0] | {"state": "moving", "files": 2, "unchanged": 0}
    wrong = report(group, transfers={"during": [{"files": -1}]})
    refused(api.request("POST", f"/jobs/{job['id']}/heartbeat", json=wrong), 400)
    assert "transfers" not in api.ok("GET", f"/jobs/{job['id']}")


def test_heartbeats_are_counted_once_an_interval_and_the_last_one_is_told(api: ApiUser, group: str) -> None:
    job = leased(api, group, heartbeat_interval=1)
    path = f"/jobs/{job['id']}"

    def beaten() -> dict[str, Any] | None:
        api.ok("POST", f"{path}/heartbeat", json=report(group))
        found: dict[str, Any] = api.ok("GET", path)
        return found if found["num_heartbeats"] else None

    found = wait_until(beaten, "an interval has passed")
    assert found["num_heartbeats"] == 1
    assert TIME.match(found["heartbeat"])
    assert found["heartbeat"] > job["heartbeat"]


def test_a_heartbeat_of_a_node_that_does_not_hold_the_job_says_canceled_and_why(
    api: ApiUser, group: str
) -> None:
    job = leased(api, group, "node-1")
    path = f"/jobs/{job['id']}/heartbeat"

    def heartbeat(**who: Any) -> tuple[str, str | None]:
        status, _, answer = api.request("POST", path, json=report(group, **who))
        assert status == 200
        return answer["status"], answer["reason"]

    assert heartbeat(machine_id="node-2") == ("canceled", "not_holder")
    assert heartbeat(machine_id="node-1", lease="wrong") == ("canceled", "not_holder")
    api.ok("POST", f"/jobs/{job['id']}/released", json=report(group))
    assert lease(api, group, "node-2") is not None
    assert heartbeat(machine_id="node-1", lease=job["lease"]) == ("canceled", "superseded")
    assert heartbeat(machine_id="node-1")[0] == "canceled"
    api.ok("DELETE", f"/jobs/{job['id']}")
    assert heartbeat(machine_id="node-2") == ("canceled", "canceled")


@pytest.mark.parametrize("with_lease", [True, False])
def test_completed_is_200_and_harmless_when_repeated(api: ApiUser, group: str, with_lease: bool) -> None:
    job = leased(api, group)
    body = report(group, lease=job["lease"]) if with_lease else report(group)
    for _ in range(2):
        status, _, answer = api.request("POST", f"/jobs/{job['id']}/completed", json=body)
        assert (status, answer) == (200, {"message": "Completed reported"})
    done = api.job(job["id"])
    assert done["status"] == "completed"
    assert TIME.match(done["completed"])


@pytest.mark.parametrize("with_lease", [True, False])
def test_failed_is_202_and_harmless_when_repeated(api: ApiUser, group: str, with_lease: bool) -> None:
    job = leased(api, group)
    body = report(group, lease=job["lease"]) if with_lease else report(group)
    for _ in range(2):
        status, _, answer = api.request("POST", f"/jobs/{job['id']}/failed", json=body | {"exit_code": 1})
        assert status == 202
        replies.FailureReply.model_validate(answer)
        assert answer["message"] == "Failure reported"
        assert (answer["num_failures"], answer["node_bans"], answer["reallocate"]) == (1, 1, False)
    again = api.job(job["id"])
    assert (again["status"], again["num_failures"]) == ("running", 1)
    assert again["waiting_for"]


def test_the_last_failure_ends_the_job(api: ApiUser, group: str) -> None:
    job = api.submit(job_body(container_group_id=group, max_failures=2))
    for node in ("node-1", "node-2"):
        assert lease(api, group, node) is not None
        assert lease(api, group, node) is None
        api.ok("POST", f"/jobs/{job['id']}/failed", json=report(group, node, outcome="sync_failed"))
    ended = api.job(job["id"])
    assert (ended["status"], ended["num_failures"]) == ("failed", 2)
    assert [attempt["outcome"] for attempt in ended["attempts"]] == ["sync_failed"] * 2


def test_the_fifth_ban_of_a_node_tells_it_to_reallocate(api: ApiUser, group: str) -> None:
    answers = []
    for _ in range(5):
        job = leased(api, group)
        answers.append(api.ok("POST", f"/jobs/{job['id']}/failed", json=report(group)))
    assert [answer["node_bans"] for answer in answers] == [1, 2, 3, 4, 5]
    assert [answer["reallocate"] for answer in answers] == [False] * 4 + [True]


@pytest.mark.parametrize("wrong", [{"exit_code": "1"}, {"reason": "x" * 2001}, {"outcome": "completed"}])
def test_a_failure_with_wrong_details_is_400_and_counts_nothing(
    api: ApiUser, group: str, wrong: dict[str, Any]
) -> None:
    job = leased(api, group)
    refused(api.request("POST", f"/jobs/{job['id']}/failed", json=report(group) | wrong), 400)
    assert api.job(job["id"])["num_failures"] == 0


def test_released_is_200_counts_nothing_and_frees_the_job_at_once(api: ApiUser, group: str) -> None:
    job = leased(api, group, "node-1")
    status, _, _ = api.request("POST", f"/jobs/{job['id']}/released", json=report(group, lease=job["lease"]))
    assert status == 200
    found = api.job(job["id"])
    assert (found["status"], found["num_failures"]) == ("running", 0)
    again = lease(api, group, "node-1")
    assert again is not None
    assert (again["id"], again["attempt"]) == (job["id"], 2)


@pytest.mark.parametrize("name", ["completed", "failed", "released"])
def test_a_report_by_another_node_is_409_with_the_reason(api: ApiUser, group: str, name: str) -> None:
    job = leased(api, group, "node-1")
    path = f"/jobs/{job['id']}/{name}"
    body = refused(api.request("POST", path, json=report(group, "node-2")), 409, "Lease Lost")
    assert body["reason"] == "not_holder"
    # the lease alone is judged when it is shown, whatever the name
    refused(api.request("POST", path, json=report(group, "node-1", lease="wrong")), 409)
    assert api.request("POST", path, json=report(group, "node-2", lease=job["lease"]))[0] in {200, 202}


@pytest.mark.parametrize("name", ["completed", "failed", "released"])
def test_a_report_of_an_older_attempt_is_409_superseded(api: ApiUser, group: str, name: str) -> None:
    job = leased(api, group, "node-1")
    api.ok("POST", f"/jobs/{job['id']}/released", json=report(group))
    assert lease(api, group, "node-2") is not None
    stale = report(group, "node-1", lease=job["lease"])
    body = refused(api.request("POST", f"/jobs/{job['id']}/{name}", json=stale), 409, "Lease Lost")
    assert body["reason"] == "superseded"
    assert api.job(job["id"])["status"] == "running"


def test_the_first_outcome_stands(api: ApiUser, group: str) -> None:
    done, failed = leased(api, group), leased(api, group, "node-2")
    api.ok("POST", f"/jobs/{done['id']}/completed", json=report(group, lease=done["lease"]))
    refused(api.request("POST", f"/jobs/{done['id']}/failed", json=report(group, lease=done["lease"])), 409)
    api.ok("POST", f"/jobs/{failed['id']}/failed", json=report(group, "node-2", lease=failed["lease"]))
    late = report(group, "node-2", lease=failed["lease"])
    assert (
        refused(api.request("POST", f"/jobs/{failed['id']}/completed", json=late), 409)["reason"] == "closed"
    )
    assert (api.job(done["id"])["status"], api.job(failed["id"])["status"]) == ("completed", "running")


@pytest.mark.parametrize("name", ["completed", "failed", "released"])
def test_a_report_after_cancel_is_409_canceled(api: ApiUser, group: str, name: str) -> None:
    job = leased(api, group)
    api.ok("DELETE", f"/jobs/{job['id']}")
    body = refused(
        api.request("POST", f"/jobs/{job['id']}/{name}", json=report(group, lease=job["lease"])), 409
    )
    assert body["reason"] == "canceled"
    assert api.job(job["id"])["status"] == "canceled"


def test_a_user_may_complete_his_pending_job_by_hand(api: ApiUser, group: str) -> None:
    job = api.submit(job_body(container_group_id=group))
    assert api.request("POST", f"/jobs/{job['id']}/completed", json=report(group))[0] == 200
    assert api.job(job["id"])["status"] == "completed"
    assert lease(api, group) is None


def test_a_user_may_fail_his_pending_job_by_hand(api: ApiUser, group: str) -> None:
    job = api.submit(job_body(container_group_id=group, max_failures=2))
    for status in ("pending", "failed"):
        assert api.request("POST", f"/jobs/{job['id']}/failed", json=report(group))[0] == 202
        assert api.job(job["id"])["status"] == status


def test_an_old_worker_without_lease_or_content_type_lives_its_whole_life(api: ApiUser, group: str) -> None:
    api.submit(job_body(container_group_id=group))
    [job] = api.ok("GET", f"/work/?machine_id=old&container_group_id={group}")
    body = json.dumps({"machine_id": "old", "container_group_id": group})
    assert api.ok("POST", f"/jobs/{job['id']}/heartbeat/", body=body)["status"] == "running"
    assert api.ok("POST", f"/jobs/{job['id']}/completed/", body=body) == {"message": "Completed reported"}
    assert api.job(job["id"])["status"] == "completed"


def test_a_poll_whose_client_has_gone_leases_nothing(api: ApiUser, group: str) -> None:
    parts = urlsplit(api.url)
    assert parts.hostname
    path = f"/work?machine_id=dead&container_group_id={group}&wait=20"
    with socket.create_connection((parts.hostname, parts.port or 80)) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nX-Kelpie-Key: {api.key}\r\n\r\n".encode())
        client.settimeout(1)
        with pytest.raises(TimeoutError):  # it waits
            client.recv(1)
    job = api.submit(job_body(container_group_id=group))
    [leased] = api.ok("GET", f"/work?machine_id=alive&container_group_id={group}&wait=5")
    assert (leased["id"], leased["machine_id"], leased["attempt"]) == (job["id"], "alive", 1)


def test_a_head_request_leases_nothing(api: ApiUser, group: str) -> None:
    job = api.submit(job_body(container_group_id=group))
    status, _, _ = api.request("HEAD", f"/work?machine_id=probe&container_group_id={group}")
    assert status == 405
    assert api.job(job["id"])["status"] == "pending"


def test_a_used_up_request_id_never_speaks_for_two_attempts(api: ApiUser, group: str) -> None:
    job = api.submit(job_body(container_group_id=group))
    same = {"Idempotency-Key": "a-constant-key-of-a-careless-worker"}
    path = f"/work?machine_id=node&container_group_id={group}"
    [leased] = api.ok("GET", path, headers=same)
    report = {"machine_id": "node", "container_group_id": group, "lease": leased["lease"]}
    api.ok("POST", f"/jobs/{job['id']}/released", json=report)
    [again] = api.ok("GET", path, headers=same)
    assert again["attempt"] == 2
    assert again["lease"] != leased["lease"]
    for name in ("completed", "failed", "released"):
        body = refused(api.request("POST", f"/jobs/{job['id']}/{name}", json=report), 409)
        assert body["reason"] == "superseded"
    assert api.ok("POST", f"/jobs/{job['id']}/heartbeat", json=report)["reason"] == "superseded"
