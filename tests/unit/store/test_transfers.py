"""What nodes say they have moved: taken from the holder alone, and kept as long as a log."""

from __future__ import annotations

import pytest

from kelpie.errors import NotFoundError
from kelpie.job import Holder, Outcome, UploadBacklog
from kelpie.progress import ProgressReport
from kelpie.store.clock import DAY_MS, wall_ms
from kelpie.store.told import DEFAULT_DAYS
from kelpie.transfers import EntryTransfers, TransferReport, Transfers, TransferState
from tests.unit.store.conftest import OTHER_USER, StoreUnderTest, holder_of

MOVED = EntryTransfers(TransferState.MOVING, 3, 5_000_000_000_000, 1, 2, 40, 1, last_age_s=2.5)
SOME = TransferReport((EntryTransfers(TransferState.DONE, 1, 9, last_age_s=60), MOVED), (MOVED,), ())
MORE = TransferReport((), (), (EntryTransfers(),))


def test_it_is_what_the_holder_said_last_and_stays_when_its_attempt_is_over(sut: StoreUnderTest) -> None:
    [job] = sut.submit(1)
    lease = sut.lease()
    assert sut.store.transfers(job.id) is None
    began = wall_ms()
    sut.store.heartbeat(job.id, holder_of(lease), transfers=SOME)
    said = sut.store.transfers(job.id)
    assert said is not None
    assert (said.attempt, said.report) == (1, SOME)
    assert began <= said.updated <= wall_ms()
    assert said.last(said.report.during[0]) == said.updated - 2500
    sut.store.heartbeat(job.id, holder_of(lease))  # a beat that says nothing leaves what was said
    sut.store.finish(job.id, holder_of(lease), Outcome.RELEASED)
    again = sut.lease("node-2")
    assert sut.store.transfers(job.id) == said
    sut.store.heartbeat(job.id, holder_of(again), transfers=MORE, days=2)
    sut.store.finish(job.id, holder_of(again), Outcome.COMPLETED)
    said = sut.store.transfers(job.id)
    assert said is not None
    assert (said.attempt, said.report) == (2, MORE)
    assert DAY_MS < sut.redis.pttl(sut.keys().transfers(job.id)) <= 2 * DAY_MS
    sut.store.purge(job.id)
    assert not sut.redis.exists(sut.keys().transfers(job.id))


def test_what_is_kept_for_no_day_is_not_kept_and_the_backlog_is(sut: StoreUnderTest) -> None:
    [job] = sut.submit(1)
    backlog, said = UploadBacklog(1, 10, 0.5), ProgressReport(0.5)
    holder = holder_of(sut.lease())
    sut.store.heartbeat(job.id, holder, backlog=backlog, transfers=SOME, progress=said, days=0)
    assert sut.store.transfers(job.id) is None
    assert sut.store.progress_history(job.id) == []
    assert sut.store.progress([sut.store.get(job.id)])[job.id].fraction == 0.5
    assert sut.store.upload_backlog(job.id) == backlog


def test_who_does_not_hold_the_job_says_nothing_of_it_and_another_user_hears_nothing(
    sut: StoreUnderTest,
) -> None:
    [job] = sut.submit(1)
    lease = sut.lease()
    sut.store.heartbeat(job.id, Holder("another", "1.not-the-secret"), transfers=SOME)
    assert sut.store.transfers(job.id) is None
    sut.store.heartbeat(job.id, holder_of(lease), transfers=SOME)
    assert sut.redis.pttl(sut.keys().transfers(job.id)) > (DEFAULT_DAYS - 1) * DAY_MS
    with pytest.raises(NotFoundError):
        sut.store.transfers(job.id, user_id=OTHER_USER)
    sut.store.finish(job.id, holder_of(lease), Outcome.COMPLETED)
    sut.store.heartbeat(job.id, holder_of(lease), transfers=MORE)  # too late
    said = sut.store.transfers(job.id)
    assert said is not None
    assert said.report == SOME


def test_what_is_kept_of_a_usual_job_is_short() -> None:
    usual = TransferReport(*((EntryTransfers(TransferState.DONE, 12, 10**9, last_age_s=9),) for _ in "abc"))
    kept = Transfers(1, wall_ms(), usual).encode()
    assert len(kept) < 300
    assert Transfers.decode(kept).report == usual


def test_all_forms_tell_the_same_and_pass_over_what_a_later_version_adds() -> None:
    said = Transfers(3, 1_800_000_000_000, SOME)
    assert Transfers.decode(said.encode()) == said
    assert Transfers.from_wire(said.to_wire()) == said
    assert Transfers.from_wire(said.to_wire()).last(MOVED) == said.last(MOVED)
    later = said.to_wire() | {"elsewhere": [], "before": [said.to_wire()["before"][0] | {"color": "red"}]}
    assert Transfers.from_wire(later).report.before == SOME.before[:1]
    assert EntryTransfers.from_wire({"color": "red"}) == EntryTransfers()
