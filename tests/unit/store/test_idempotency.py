"""A submit that is sent again under its key adds nothing."""

from __future__ import annotations

from typing import Any

import pytest

from kelpie.errors import ConflictError
from kelpie.job import JobStatus
from tests.factories import spec
from tests.unit.store.conftest import OTHER_USER, USER, StoreUnderTest

KEY = "one-and-only-submission"


def test_the_same_jobs_under_the_same_key_are_the_same_jobs(sut: StoreUnderTest) -> None:
    batch = [spec(command=name, container_group_id=group) for name in "abc" for group in ("x", "y")]
    first = sut.store.submit(USER, batch, idempotency_key=KEY)
    again = sut.store.submit(USER, batch, idempotency_key=KEY)
    assert again == first
    assert len({job.id for job in first}) == 6
    assert [job.id for job in sut.list(ascending=True)] != []
    assert len(sut.list()) == 6


def test_of_a_batch_that_is_there_in_part_the_rest_is_added(sut: StoreUnderTest) -> None:
    batch = [spec(command=name) for name in "abc"]
    first = sut.store.submit(USER, batch, idempotency_key=KEY)
    sut.store.purge(first[1].id)
    again = sut.store.submit(USER, batch, idempotency_key=KEY)
    assert [job.id for job in again] == [job.id for job in first]
    assert {job.id for job in sut.list()} == {job.id for job in first}


def test_a_repeated_submit_tells_how_its_jobs_are_now(sut: StoreUnderTest) -> None:
    (job,) = sut.store.submit(USER, [spec()], idempotency_key=KEY)
    sut.lease()
    (again,) = sut.store.submit(USER, [spec()], idempotency_key=KEY)
    assert (again.id, again.status, again.attempt) == (job.id, JobStatus.RUNNING, 1)


@pytest.mark.parametrize(
    "other",
    [[spec(command="other")], [spec(container_group_id="other")], [spec(), spec()]],
    ids=["definition", "group", "number"],
)
def test_other_jobs_under_the_same_key_are_refused(sut: StoreUnderTest, other: list[Any]) -> None:
    sut.store.submit(USER, [spec()], idempotency_key=KEY)
    before = sut.state()
    with pytest.raises(ConflictError, match="idempotency key"):
        sut.store.submit(USER, other, idempotency_key=KEY)
    assert sut.state() == before


def test_keys_of_different_users_and_jobs_without_a_key_have_nothing_in_common(sut: StoreUnderTest) -> None:
    jobs = [
        *sut.store.submit(USER, [spec()], idempotency_key=KEY),
        *sut.store.submit(OTHER_USER, [spec(command="other")], idempotency_key=KEY),
        *sut.store.submit(USER, [spec()], idempotency_key=KEY + "2"),
        *sut.store.submit(USER, [spec()]),
        *sut.store.submit(USER, [spec()]),
    ]
    assert len({job.id for job in jobs}) == 5


def test_a_submit_that_was_cut_short_is_finished_by_its_repeat(
    sut: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CutShort(Exception):
        pass

    def cut_short(*_: object, **__: object) -> None:
        raise CutShort

    with monkeypatch.context() as patch:
        patch.setattr(sut.store, "_run", cut_short)
        with pytest.raises(CutShort):
            sut.store.submit(USER, [spec()], idempotency_key=KEY)
    assert sut.list() == []
    (job,) = sut.store.submit(USER, [spec()], idempotency_key=KEY)
    assert [kept.id for kept in sut.list()] == [job.id]


def test_a_key_is_forgotten_after_a_day_and_kept_in_no_readable_form(sut: StoreUnderTest) -> None:
    sut.store.submit(USER, [spec()], idempotency_key=KEY)
    (name,) = sut.redis.scan_iter(match="*:submit:*")
    assert KEY.encode() not in name
    assert 86_000 < sut.redis.ttl(name) <= 86_400
