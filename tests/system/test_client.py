"""The client and the command line against the real API, also when the way to it loses replies."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from kelpie import Client
from kelpie.errors import ConflictError, NotFoundError
from kelpie.job import JobStatus
from kelpie.secrets import MASK
from tests.api import ApiServer, ApiUser
from tests.factories import job_body
from tests.fault_proxy import RESET_AFTER, Answer, FaultProxy, Request, times


@pytest.fixture
def client(api: ApiUser) -> Iterator[Client]:
    """A client of a new user."""
    with Client(api.url, api.key) as client:
        yield client


def posted(request: Request) -> bool:
    return request.method == "POST"


FAULTS: dict[str, Callable[[], Answer | str]] = {
    "the reply is lost": lambda: RESET_AFTER,
    "a gateway gives up": lambda: Answer(504, b"<html>gateway timeout</html>", {"Retry-After": "0"}),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_submit_over_a_bad_line_queues_its_jobs_once(
    api: ApiUser, api_server: ApiServer, group: str, fault: str
) -> None:
    with FaultProxy(api_server.url) as proxy, Client(proxy.endpoint, api.key) as client:
        for number in (1, 2, 3):
            proxy.rule = times(number, FAULTS[fault](), posted)
            job = client.submit(["true", str(number)], queue=group)
            assert job.spec.arguments == (str(number),)
        proxy.rule = times(2, FAULTS[fault](), posted)
        batch = client.submit_many(job_body(container_group_id=group, command=name) for name in "abc")
        assert [job.spec.command for job in batch] == ["a", "b", "c"]
        assert len([request for request in proxy.requests if posted(request)]) == 2 + 3 + 4 + 3
        jobs = client.jobs(queue=group, ascending=True)
    assert [(job.spec.command, *job.spec.arguments) for job in jobs] == [
        *(("true", str(number)) for number in (1, 2, 3)),
        *((name,) for name in "abc"),
    ]


def test_a_change_over_a_bad_line_is_made(api: ApiUser, api_server: ApiServer, group: str) -> None:
    job_id = api.submit(job_body(container_group_id=group))["id"]
    with FaultProxy(api_server.url) as proxy, Client(proxy.endpoint, api.key) as client:
        proxy.rule = times(1, RESET_AFTER, posted)
        assert client.hold(job_id).on_hold
        proxy.rule = times(1, RESET_AFTER, posted)
        assert not client.resume(job_id).on_hold


def test_the_same_key_in_two_processes_is_one_job(client: Client, api: ApiUser, group: str) -> None:
    first = client.submit(["true"], queue=group, idempotency_key="nightly")
    with Client(api.url, api.key) as another:
        assert another.submit(["true"], queue=group, idempotency_key="nightly").id == first.id
        with pytest.raises(ConflictError, match="idempotency key"):
            another.submit(["false"], queue=group, idempotency_key="nightly")


def test_a_jobs_life_by_its_owners_hand(client: Client, api: ApiUser, group: str) -> None:
    job = client.submit(["true"], queue=group, max_failures=1)
    held = client.hold(job.id)
    assert (held.on_hold, held.waiting_for) == (True, "held: it waits until it is resumed")
    assert not client.resume(job.id).on_hold
    node = {"machine_id": "n1", "container_group_id": group}
    [leased] = api.ok("GET", f"/work?machine_id=n1&container_group_id={group}")
    api.ok("POST", f"/jobs/{job.id}/failed", json=node | {"lease": leased["lease"]})
    assert client.job(job.id).status is JobStatus.FAILED
    with pytest.raises(ConflictError, match="failed"):
        client.hold(job.id)
    again = client.requeue(job.id)
    assert (again.status, again.num_failures, again.banned_nodes) == (JobStatus.RUNNING, 0, ())
    with pytest.raises(NotFoundError):
        client.unban(str(uuid.uuid4()))
    assert client.unban(job.id, "n1").id == job.id


def test_a_list_is_read_to_its_end_by_cursors(
    client: Client, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kelpie.client.jobs.PAGE_SIZE", 7)
    client.submit_many(
        job_body(container_group_id=group, labels={"half": str(i % 2)}, arguments=[f"--seed={i}"])
        for i in range(30)
    )
    jobs = client.jobs(queue=group, limit=1000)
    assert len({job.id for job in jobs}) == 30
    assert all(newer.created >= older.created for newer, older in pairwise(jobs))
    assert [job.id for job in client.jobs(limit=1000, ascending=True)] == [job.id for job in reversed(jobs)]
    assert len(client.jobs(labels={"half": "1"}, limit=1000)) == 15
    assert len(client.jobs(labels={"half": "1"}, limit=8)) == 8
    assert [job.spec.arguments for job in client.jobs(text="--SEED=17")] == [("--seed=17",)]
    assert client.jobs(node="nobody") == client.jobs(status=JobStatus.RUNNING) == []


def test_a_delayed_job_with_secrets(client: Client, group: str) -> None:
    later = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    job = client.submit(["true"], queue=group, environment={"API_KEY": "abc"}, not_before=later)
    assert job.spec.not_before == 1000 * int(later.timestamp())
    [listed] = client.jobs(queue=group)
    assert listed.spec.environment == {"API_KEY": MASK}
    assert client.job(job.id).spec.environment == {"API_KEY": "abc"}
    assert (client.job(job.id).waiting_for or "").startswith("not before ")
