"""Lists that go on from a cursor, and what they can be filtered by."""

from __future__ import annotations

import random
from typing import Any

import pytest

from kelpie.errors import InvalidInputError
from kelpie.job import JobStatus, Outcome
from kelpie.store import Filter, Page, listing
from kelpie.store.jobs import SEARCH_LIMIT
from tests.factories import spec
from tests.unit.store.conftest import OTHER_USER, USER, StoreUnderTest, holder_of


def walk(sut: StoreUnderTest, chosen: Filter, *, user_id: str | None = USER, **how: Any) -> list[str]:
    """The ids on all pages, by cursor."""
    ids: list[str] = []
    cursor: str | None = None
    while True:
        page = sut.store.search(user_id, chosen, cursor=cursor, **how)
        ids += [job.id for job in page.jobs]
        cursor = page.next_cursor
        if cursor is None:
            return ids


@pytest.mark.parametrize("ascending", [True, False])
@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_cursors_lead_through_all_queues_in_order_without_gap_or_repeat(
    sut: StoreUnderTest, size: int, ascending: bool
) -> None:
    chance = random.Random(size)
    ids = []
    for number in range(40):
        if chance.random() < 0.5:  # several jobs of the same moment, in different queues
            sut.now += 1
            sut.set_clock()
        job = sut.submit_one(container_group_id=chance.choice(["a", "b", "c"]))
        ids.append((job.created, job.id))
        if number % 3 == 0:
            sut.store.cancel(job.id)
    found = walk(sut, Filter(), size=size, ascending=ascending)
    created = {job_id: time for time, job_id in ids}
    assert sorted(found) == sorted(created)
    assert [created[job_id] for job_id in found] == sorted(created.values(), reverse=not ascending)


def test_jobs_that_come_while_somebody_pages_shift_nothing(sut: StoreUnderTest) -> None:
    jobs = sut.submit(10)
    first = sut.store.search(USER, Filter(), size=4)
    sut.submit(5)
    second = sut.store.search(USER, Filter(), cursor=first.next_cursor, size=4)
    assert [job.id for job in first.jobs + second.jobs] == [job.id for job in reversed(jobs)][:8]


def test_a_page_by_number_leads_to_the_next_by_cursor(sut: StoreUnderTest) -> None:
    jobs = sut.submit(5)
    page = sut.store.page(USER, Filter(), number=2, size=2)
    rest = sut.store.search(USER, Filter(), cursor=page.next_cursor)
    assert [job.id for job in page.jobs + rest.jobs] == [job.id for job in reversed(jobs)][2:]
    assert rest.next_cursor is None
    assert sut.store.page(USER, Filter(), size=50).next_cursor is None


def test_jobs_are_found_by_their_labels(sut: StoreUnderTest) -> None:
    both = sut.submit_one(labels={"sweep": "1", "model": "ü x"})
    sut.advance(1)
    one = sut.submit_one(labels={"sweep": "1"}, container_group_id="other")
    sut.submit_one(labels={"sweep": "11"})
    sut.submit_one()
    sut.submit(1, user=OTHER_USER, labels={"sweep": "1"})
    assert walk(sut, Filter(labels={"sweep": "1"})) == [one.id, both.id]
    assert walk(sut, Filter(labels={"model": "ü x", "sweep": "1"})) == [both.id]
    assert walk(sut, Filter(labels={"sweep": "1"}, container_group_id="other")) == [one.id]
    assert walk(sut, Filter(labels={"sweep": "2"})) == []
    sut.store.purge(one.id)
    assert walk(sut, Filter(labels={"sweep": "1"})) == [both.id]


def test_jobs_are_found_by_the_nodes_that_they_were_given_to(sut: StoreUnderTest) -> None:
    jobs = sut.submit(3)
    first = sut.lease("n1")
    sut.store.finish(first.job.id, holder_of(first), Outcome.RELEASED)
    sut.lease("n2")
    assert sut.lease("n1").job.id == jobs[1].id
    assert walk(sut, Filter(node="n1")) == [jobs[1].id, jobs[0].id]
    assert walk(sut, Filter(node="n2")) == [jobs[0].id]
    assert walk(sut, Filter(node="n1", status=JobStatus.PENDING)) == []
    assert walk(sut, Filter(node="nobody")) == []


@pytest.mark.parametrize("text", ["SIM.py", "--steps 9", "gpu-Pool", "grid=7", "Größe"])
def test_jobs_are_found_by_text_in_any_case(sut: StoreUnderTest, text: str) -> None:
    sut.submit(3)
    job = sut.submit_one(
        command="sim.py",
        arguments=("--steps 9", "GRÖSSE"),
        container_group_id="GPU-pool",
        labels={"grid": "7"},
    )
    sut.submit(3)
    assert walk(sut, Filter(text=text)) == [job.id]
    assert walk(sut, Filter(text=job.id[:8])) == [job.id]


def test_a_search_looks_at_so_many_jobs_and_hands_back_where_to_go_on(sut: StoreUnderTest) -> None:
    wanted = sut.submit_one(command="needle")
    for _ in range(SEARCH_LIMIT // 1000 + 1):
        sut.store.submit(USER, [spec() for _ in range(1000)])
    page = sut.store.search(USER, Filter(text="needle"))
    assert page.jobs == []
    assert page.next_cursor is not None
    assert [
        job.id for job in sut.store.search(USER, Filter(text="needle"), cursor=page.next_cursor).jobs
    ] == [wanted.id]


@pytest.mark.parametrize("cursor", ["", "x", "!!!", "MTIzNA", "a" * 128, "ü"])
def test_a_cursor_that_no_list_gave_is_refused(sut: StoreUnderTest, cursor: str) -> None:
    with pytest.raises(InvalidInputError, match="cursor"):
        sut.store.search(USER, Filter(), cursor=cursor)


def test_nothing_is_an_empty_page(sut: StoreUnderTest) -> None:
    assert sut.store.search(USER, Filter()) == Page([], None)


@pytest.mark.parametrize("ascending", [True, False])
def test_a_page_far_in_is_found_without_reading_what_is_before_it(
    sut: StoreUnderTest, ascending: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(7)
    ids = []
    for _ in range(60):
        sut.now += chance.choice([0, 1])  # some batches share their moment
        sut.set_clock()
        batch = [spec(container_group_id=chance.choice("ab")) for _ in range(50)]
        ids += [job.id for job in sut.store.submit(USER, batch)]
    expected = walk(sut, Filter(), ascending=ascending, size=1000)
    assert sorted(expected) == sorted(ids)
    read = 0
    pages: list[str] = []
    take = listing._after

    def counted(found: set[listing.Position], *rest: Any, **more: Any) -> list[listing.Position]:
        nonlocal read
        read = max(read, len(found))
        return take(found, *rest, **more)

    monkeypatch.setattr(listing, "_after", counted)
    for number in range(1, 32):
        page = sut.store.page(USER, Filter(), number=number, size=100, ascending=ascending)
        pages += [job.id for job in page.jobs]
    assert pages == expected
    assert read < 2 * listing.SKIP_FROM


def test_what_lists_mask_is_not_found_by_a_search(sut: StoreUnderTest) -> None:
    sut.submit_one(arguments=("--password", "swordfish-91", "--seed", "7"), environment={"A": "swordfish-91"})
    assert walk(sut, Filter(text="swordfish")) == []
    assert len(walk(sut, Filter(text="--seed"))) == 1
