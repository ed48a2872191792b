"""Jobs as their owners see them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from kelpie.errors import ConflictError, InvalidInputError, NotFoundError
from kelpie.job import Direction, Holder, JobStatus, LegacySync, Outcome, Sync, SyncEntry
from kelpie.progress import ProgressReport
from kelpie.store.codec import MAX_SPEC_BYTES
from tests.factories import spec
from tests.unit.store.conftest import OTHER_USER, START_MS, USER, StoreUnderTest, holder_of


def test_a_submitted_job_is_read_back_as_it_was_given(sut: StoreUnderTest) -> None:
    entry = SyncEntry("b", "p/", "/ckpt", Direction.UPLOAD, r"\.ckpt$")
    given = [
        spec(
            command="python",
            arguments=("a b", "ü", ""),
            environment={"A": "1"},
            max_failures=7,
            heartbeat_interval=5,
            webhook="https://example.org/hook",
            compression=True,
            sync=Sync(during=(entry,)),
            priority=9,
            labels={"sweep": "1"},
        ),
        spec(sync=None, legacy=LegacySync("a", "b/", "c", "d/", "e", "f/")),
        spec(arguments=("x" * 5000,)),  # long enough to be kept deflated
    ]
    submitted = sut.store.submit(USER, given)
    assert [job.spec for job in submitted] == given
    assert [sut.get(job) for job in submitted] == submitted
    assert {job.created for job in submitted} == {START_MS}
    assert all(job.status is JobStatus.PENDING and job.user_id == USER for job in submitted)


def test_job_ids_are_version_4_uuids(sut: StoreUnderTest) -> None:
    for job in sut.submit(20):
        parsed = uuid.UUID(job.id)
        assert parsed.version == 4
        assert parsed.variant == uuid.RFC_4122


def test_a_batch_over_several_queues_keeps_its_order(sut: StoreUnderTest) -> None:
    groups = ["a", "b", "a/{x}", "b", "ü", "a"]
    jobs = sut.store.submit(USER, [spec(container_group_id=group) for group in groups])
    assert [job.spec.container_group_id for job in jobs] == groups
    assert [sut.get(job).spec.container_group_id for job in jobs] == groups
    assert [queue.container_group_id for queue in sut.store.queues(USER)] == ["a", "b", "a/{x}", "ü"]


@pytest.mark.parametrize(
    "bad",
    [
        {"priority": 256},
        {"max_failures": 0},
        {"heartbeat_interval": 0},
        {"container_group_id": ""},
        {"container_group_id": "a\nb"},
        {"arguments": ("x" * MAX_SPEC_BYTES,)},
        {"command": "\ud800"},
    ],
    ids=lambda bad: next(iter(bad)),
)
def test_one_bad_job_leaves_the_whole_batch_out(sut: StoreUnderTest, bad: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError) as refused:
        sut.store.submit(USER, [spec(), spec(container_group_id="other"), spec(**bad)])
    assert refused.value.index == 2
    assert sut.list(user_id=USER) == []


@pytest.mark.parametrize("count", [0, 1001])
def test_a_batch_has_1_to_1000_jobs(sut: StoreUnderTest, count: int) -> None:
    with pytest.raises(InvalidInputError):
        sut.submit(count)


def test_a_submit_sent_twice_adds_its_jobs_once(sut: StoreUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    run = sut.redis.evalsha

    def twice(*args: Any) -> Any:  # as a client does that lost the first reply
        run(*args)
        return run(*args)

    sut.submit()
    monkeypatch.setattr(sut.redis, "evalsha", twice)
    jobs = sut.submit(3)
    monkeypatch.undo()
    assert [job.created for job in jobs] == [START_MS] * 3
    assert len(sut.list(user_id=USER)) == 4
    assert sut.redis.zcard(sut.keys().waiting) == 4
    assert sut.redis.hget(sut.keys().meta, "sequence") == b"4"
    assert sut.redis.xlen(sut.keys().events) == 4


def test_other_users_see_nothing_of_a_job(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    lease = sut.lease()
    before = sut.state()
    for call in (
        lambda: sut.store.get(job.id, user_id=OTHER_USER),
        lambda: sut.store.attempts(job.id, user_id=OTHER_USER),
        lambda: sut.store.cancel(job.id, user_id=OTHER_USER),
        lambda: sut.store.purge(job.id, user_id=OTHER_USER),
        lambda: sut.store.heartbeat(job.id, holder_of(lease), user_id=OTHER_USER),
        lambda: sut.store.finish(job.id, holder_of(lease), Outcome.COMPLETED, user_id=OTHER_USER),
    ):
        with pytest.raises(NotFoundError):
            call()
    assert sut.list(user_id=OTHER_USER) == []
    assert sut.list(user_id=OTHER_USER, container_group_id=job.spec.container_group_id) == []
    assert sut.store.clear_group(OTHER_USER, job.spec.container_group_id) == 0
    assert sut.store.lease(OTHER_USER, job.spec.container_group_id, "node-2", "r" * 16) is None
    assert sut.state() == before
    assert sut.store.get(job.id, user_id=USER).id == job.id


@pytest.mark.parametrize(
    "job_id", ["", "x", "../..", "00000000-0000-4000-8000-000000000000", "\ud800", "9" * 5000]
)
def test_an_id_that_is_none_is_not_found(sut: StoreUnderTest, job_id: str) -> None:
    sut.submit()
    for call in (sut.store.get, sut.store.attempts, sut.store.cancel, sut.store.purge):
        with pytest.raises(NotFoundError):
            call(job_id)
    with pytest.raises(NotFoundError):
        sut.store.heartbeat(job_id, Holder("node-1"))


def test_the_id_of_a_queue_without_that_job_is_not_found(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    stranger = job.id[:-1] + ("0" if job.id[-1] != "0" else "1")
    for call in (sut.store.get, sut.store.attempts, sut.store.cancel, sut.store.purge):
        with pytest.raises(NotFoundError):
            call(stranger)
    for outcome in (Outcome.COMPLETED, Outcome.RELEASED):
        with pytest.raises(NotFoundError):
            sut.store.finish(stranger, Holder("node-1", may_report_unheld=True), outcome)


# Lists


def test_lists_page_through_all_queues_in_order_of_creation(sut: StoreUnderTest) -> None:
    groups = ("a", "b", "c")
    ids = []
    for number in range(25):
        sut.now += 1
        sut.set_clock()
        (job,) = sut.store.submit(USER, [spec(container_group_id=groups[number % 7 % 3])])
        ids.append(job.id)
        if number % 4 == 1:
            sut.store.cancel(job.id)

    def pages(ascending: bool) -> list[str]:
        found = [sut.list(user_id=USER, number=page, size=4, ascending=ascending) for page in range(1, 9)]
        assert [len(page) for page in found] == [4, 4, 4, 4, 4, 4, 1, 0]
        return [job.id for page in found for job in page]

    assert pages(ascending=True) == ids
    assert pages(ascending=False) == ids[::-1]


def test_a_batch_is_listed_in_its_own_order(sut: StoreUnderTest) -> None:
    jobs = sut.submit(30)
    listed = sut.list(user_id=USER, size=30, ascending=True)
    assert [job.id for job in listed] == [job.id for job in jobs]


def test_lists_filter_by_status_and_group(sut: StoreUnderTest) -> None:
    mine = sut.submit(3)
    (elsewhere,) = sut.store.submit(USER, [spec(container_group_id="other")])
    (foreign,) = sut.submit(1, user=OTHER_USER)
    leased = sut.lease()
    done = sut.lease()
    sut.store.finish(done.job.id, holder_of(done), Outcome.COMPLETED)

    def ids(**filters: Any) -> set[str]:
        return {job.id for job in sut.list(**({"user_id": USER} | filters))}

    assert ids() == {job.id for job in (*mine, elsewhere)}
    assert ids(user_id=None) == {job.id for job in (*mine, elsewhere, foreign)}
    assert ids(container_group_id="other") == {elsewhere.id}
    assert ids(container_group_id="nowhere") == set()
    assert ids(status=JobStatus.RUNNING) == {leased.job.id}
    assert ids(status=JobStatus.COMPLETED) == {done.job.id}
    assert ids(status=JobStatus.PENDING) == {mine[2].id, elsewhere.id}
    assert ids(status=JobStatus.FAILED) == set()
    assert ids(user_id=None, container_group_id=mine[0].spec.container_group_id) == {
        job.id for job in (*mine, foreign)
    }


def test_a_page_is_found_without_reading_every_id(
    sut: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(6):
        sut.store.submit(USER, [spec(container_group_id=f"group-{i}") for _ in range(100)])
    read: list[int] = []
    pipeline = sut.redis.pipeline

    def counting(*args: Any, **kwargs: Any) -> Any:
        made = pipeline(*args, **kwargs)
        execute = made.execute

        def run() -> Any:
            answers = execute()
            read.extend(len(answer) for answer in answers if isinstance(answer, list))
            return answers

        monkeypatch.setattr(made, "execute", run)
        return made

    monkeypatch.setattr(sut.redis, "pipeline", counting)
    for page in (1, 2, 5):
        read.clear()
        assert len(sut.list(user_id=USER, number=page, size=10)) == 10
        assert sum(read) <= 4 * page * 10 + 12  # of 600


@pytest.mark.parametrize(("page", "size"), [(0, 10), (1, 0), (1, 1001), (10**9, 10)])
def test_a_page_out_of_bounds_is_refused(sut: StoreUnderTest, page: int, size: int) -> None:
    with pytest.raises(InvalidInputError):
        sut.list(user_id=USER, number=page, size=size)


# Cancel, purge


def test_a_pending_job_is_canceled_at_once(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    canceled = sut.store.cancel(job.id)
    assert canceled == replace(job, status=JobStatus.CANCELED, canceled=START_MS)
    assert sut.get(job) == canceled
    assert sut.poll() is None


def test_canceling_again_is_harmless(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    first = sut.store.cancel(job.id)
    sut.advance(5000)
    assert sut.store.cancel(job.id) == first


def test_a_running_job_is_canceled_with_its_attempt(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    lease = sut.lease()
    sut.advance(1000)
    assert sut.store.cancel(job.id).status is JobStatus.CANCELED
    (attempt,) = sut.store.attempts(job.id)
    assert (attempt.outcome, attempt.end) == (Outcome.CANCELED, START_MS + 1000)
    reply = sut.store.heartbeat(job.id, holder_of(lease))
    assert (reply.status, reply.reason) == (JobStatus.CANCELED, "canceled")


def test_canceling_a_waiting_running_job_leaves_its_attempt_interrupted(
    sut: StoreUnderTest,
) -> None:
    job = sut.submit_one()
    sut.expire(sut.lease())
    sut.store.cancel(job.id)
    assert [attempt.outcome for attempt in sut.store.attempts(job.id)] == [Outcome.INTERRUPTED]
    assert sut.poll("node-2") is None


@pytest.mark.parametrize("outcome", [Outcome.COMPLETED, Outcome.APP_FAILED])
def test_an_ended_job_is_not_canceled(sut: StoreUnderTest, outcome: Outcome) -> None:
    job = sut.submit_one(max_failures=1)
    sut.store.finish(job.id, holder_of(sut.lease()), outcome)
    before = sut.state()
    with pytest.raises(ConflictError):
        sut.store.cancel(job.id)
    assert sut.state() == before


def test_purging_jobs_in_every_state_leaves_no_key_behind(
    sut: StoreUnderTest, leaked_keys: Callable[[], list[bytes]]
) -> None:
    make_jobs_in_every_state(sut)
    for job in sut.list(user_id=None):
        sut.store.purge(job.id)
        with pytest.raises(NotFoundError):
            sut.get(job)
    assert leaked_keys() == []


def test_purge_all_leaves_no_key_behind(sut: StoreUnderTest, leaked_keys: Callable[[], list[bytes]]) -> None:
    make_jobs_in_every_state(sut)
    sut.submit(250)
    sut.submit(3, user=OTHER_USER)
    sut.store.purge_all()
    assert leaked_keys() == []
    assert sut.list(user_id=None) == []
    assert sut.poll() is None
    queue = sut.store.find_queue(USER, "group-1")
    assert queue is not None
    kept = sut.store.events.read(queue, count=10_000)
    assert kept  # nobody has passed them on yet
    sut.store.events.set_relay_cursor(queue, kept[-1].id)
    sut.store.purge_all()
    assert sut.store.events.read(queue) == kept[-1:]


def test_purging_a_job_that_is_gone_is_not_found(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    sut.store.purge(job.id)
    with pytest.raises(NotFoundError):
        sut.store.purge(job.id)


def test_clearing_a_group_purges_the_pending_and_cancels_the_running(sut: StoreUnderTest) -> None:
    states = make_jobs_in_every_state(sut)
    (elsewhere,) = sut.store.submit(USER, [spec(container_group_id="other")])
    pending = sut.submit(450)
    assert sut.store.clear_group(USER, "group-1") == 450 + 4
    with pytest.raises(NotFoundError):
        sut.get(pending[0])
    left = {job.id: job.status for job in sut.list(user_id=USER)}
    assert left == {
        states["held"]: JobStatus.CANCELED,
        states["expired"]: JobStatus.CANCELED,
        states["banned"]: JobStatus.CANCELED,
        states["completed"]: JobStatus.COMPLETED,
        states["failed"]: JobStatus.FAILED,
        states["canceled"]: JobStatus.CANCELED,
        elsewhere.id: JobStatus.PENDING,
    }
    assert sut.poll() is None


def make_jobs_in_every_state(sut: StoreUnderTest) -> dict[str, str]:
    """One job per state; their ids by name. Includes one pending job."""
    expired = sut.submit_one()
    sut.expire(sut.lease("node-0"))
    made = {"expired": expired.id}
    sut.submit(1, priority=1)

    def next_one(name: str, **overrides: object) -> None:
        made[name] = sut.submit_one(**overrides).id

    sut.store.cancel(sut.list(user_id=USER, status=JobStatus.PENDING)[0].id)
    made["canceled"] = sut.list(user_id=USER, status=JobStatus.CANCELED)[0].id
    late = sut.lease("node-1")  # takes the expired job away, so that others come first below
    assert late.job.id == expired.id
    next_one("completed")
    done = sut.lease("node-1")
    sut.store.heartbeat(done.job.id, holder_of(done), progress=ProgressReport(0.5))
    sut.store.finish(done.job.id, holder_of(done), Outcome.COMPLETED)
    next_one("failed", max_failures=1)
    failed = sut.lease("node-1")
    sut.store.finish(failed.job.id, holder_of(failed), Outcome.APP_FAILED)
    next_one("held")
    sut.lease("node-1")
    next_one("banned")
    banned = sut.lease("node-1")
    sut.store.finish(banned.job.id, holder_of(banned), Outcome.APP_FAILED)
    sut.store.finish(expired.id, holder_of(late), Outcome.RELEASED)
    next_one("pending")
    return made
