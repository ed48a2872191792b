"""Jobs whose folders another slot has, and what waits behind them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kelpie.job import Direction, FinishReply, JobStatus, Sync, SyncEntry
from kelpie_worker import set_aside
from kelpie_worker.claims import FolderClaims
from kelpie_worker.exit_codes import STOPPED
from kelpie_worker.leased import LeasedJob
from tests.unit.worker.doubles import MemoryQueue, shell_job
from tests.unit.worker.test_loop import Case
from tests.waiting import wait_until

FOR_EVER_S = (3600.0, 3600.0)


class Requeueing(MemoryQueue):
    """A job that is handed back is the first to be handed out again, as in Redis."""

    def released(self, job: LeasedJob) -> FinishReply:
        reply = super().released(job)
        self.jobs.insert(0, job)
        return reply


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(set_aside, "_KEEP_S", FOR_EVER_S)
    monkeypatch.setattr(set_aside, "_OPEN_TO_OTHERS_S", 0.01)
    case = Case(tmp_path)
    yield case
    case.file.close()


@pytest.fixture
def taken(tmp_path: Path) -> Path:
    """A folder that the busy slot has."""
    return tmp_path / "data"


@pytest.fixture
def slots(tmp_path: Path, taken: Path) -> tuple[FolderClaims, FolderClaims]:
    """The claims of an idle slot, and of a busy one."""
    folders = [tmp_path / f"kelpie-slot-{number}" for number in (1, 2)]
    for each in folders:
        each.mkdir()
    idle, busy = map(FolderClaims, folders)
    busy.take("busy 1", [taken])
    return idle, busy


def job_in(folder: Path, job_id: str) -> LeasedJob:
    sync = Sync(after=(SyncEntry("b", "", str(folder), Direction.UPLOAD),))
    return shell_job("true", id=job_id, sync=sync)


def stop(case: Case) -> None:
    case.stop.request()
    assert case.end() == STOPPED


def test_what_waits_behind_jobs_whose_folder_is_taken_runs_at_once(
    case: Case, slots: tuple[FolderClaims, FolderClaims], taken: Path
) -> None:
    case.queue = Requeueing(jobs=[job_in(taken, "a"), job_in(taken, "b"), shell_job("true", id="c")])
    case.begin(claims=slots[0])
    wait_until(lambda: ("completed", "c") in case.queue.reports, "the other work")
    case.queue.jobs.append(shell_job("true", id="d"))
    wait_until(lambda: ("completed", "d") in case.queue.reports, "work that came later")
    assert not [report for report in case.queue.reports if report[0] == "released"]  # kept meanwhile
    stop(case)
    assert {job_id for what, job_id in case.queue.reports if what == "completed"} == {"c", "d"}
    assert {job.id for job in case.queue.jobs} == {"a", "b"}  # for another node


def test_of_jobs_that_wait_for_one_folder_one_goes_back_when_it_is_free(
    case: Case, slots: tuple[FolderClaims, FolderClaims], taken: Path, tmp_path: Path
) -> None:
    idle, busy = slots
    waiting = replace(job_in(taken, "a"), command="sh", arguments=("-c", "touch up; exec sleep 60"))
    case.queue = Requeueing(jobs=[waiting, job_in(taken, "b"), job_in(taken, "c")])
    case.begin(claims=idle)
    wait_until(lambda: case.queue.beats >= 3, "the leases to be kept")
    busy.give_back("busy 1")
    wait_until((case.folder / "up").exists, "the first of them to run")
    assert case.queue.reports == [("released", "a")]
    stop(case)


def test_a_job_goes_back_at_its_time_also_while_another_runs(
    case: Case, slots: tuple[FolderClaims, FolderClaims], taken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_aside, "_KEEP_S", (0.5, 0.5))
    case.queue.jobs = [job_in(taken, "a"), shell_job("exec sleep 60", id="b")]
    case.begin(claims=slots[0])
    wait_until(lambda: case.queue.reports == [("released", "a")], "the job to be handed back")
    stop(case)
    assert case.queue.reports == [("released", "a"), ("released", "b")]


def test_a_job_without_room_is_not_tried_again_after_each_other_job(
    case: Case, slots: tuple[FolderClaims, FolderClaims], tmp_path: Path
) -> None:
    case.engine.full = {"a"}
    others = [shell_job("true", id=name) for name in "bcd"]
    case.queue = Requeueing(jobs=[job_in(tmp_path / "own", "a"), *others])
    case.begin(claims=slots[0])
    wait_until(lambda: ("completed", "d") in case.queue.reports, "the jobs behind it")
    stop(case)
    assert len(case.engine.syncs) == 1 + len(others)


def test_a_job_that_was_set_aside_runs_as_soon_as_its_folder_is_free(
    case: Case, slots: tuple[FolderClaims, FolderClaims], taken: Path
) -> None:
    idle, busy = slots
    case.queue = Requeueing(jobs=[job_in(taken, "a")])
    case.begin(claims=idle)
    wait_until(lambda: case.queue.beats, "the lease to be kept")
    assert case.queue.reports == []
    busy.give_back("busy 1")
    wait_until(lambda: ("completed", "a") in case.queue.reports, "the job")
    assert case.queue.reports.count(("released", "a")) == 1
    stop(case)


def test_a_job_that_was_set_aside_for_long_is_open_to_other_nodes_for_a_while(
    case: Case, slots: tuple[FolderClaims, FolderClaims], taken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_aside, "_KEEP_S", (0.01, 0.01))
    monkeypatch.setattr(set_aside, "_OPEN_TO_OTHERS_S", 3600.0)
    case.queue = Requeueing(jobs=[job_in(taken, "a")])
    case.begin(claims=slots[0])
    wait_until(lambda: case.queue.reports == [("released", "a")], "the job to be handed back")
    stop(case)
    assert [job.id for job in case.queue.jobs] == ["a"]  # nobody has asked for it meanwhile


def test_a_job_is_handed_back_long_before_it_would_have_run_for_too_long(
    case: Case, slots: tuple[FolderClaims, FolderClaims], taken: Path
) -> None:
    case.queue.jobs = [replace(job_in(taken, "a"), max_runtime_s=1), job_in(taken, "b")]
    case.begin(claims=slots[0])
    wait_until(lambda: case.queue.reports == [("released", "a")], "the job to be handed back")
    stop(case)
    assert case.queue.reports == [("released", "a"), ("released", "b")]


def test_a_stop_hands_back_what_was_set_aside(
    case: Case, slots: tuple[FolderClaims, FolderClaims], taken: Path
) -> None:
    case.queue.jobs = [job_in(taken, "a"), job_in(taken, "b")]
    case.begin(claims=slots[0])
    wait_until(lambda: case.queue.beats >= 2, "both leases to be kept")
    stop(case)
    assert sorted(case.queue.reports) == [("released", "a"), ("released", "b")]


def test_a_job_that_is_canceled_while_it_is_set_aside_is_let_go_without_a_word(
    case: Case, slots: tuple[FolderClaims, FolderClaims], taken: Path
) -> None:
    case.queue.status = JobStatus.CANCELED
    case.queue.jobs = [job_in(taken, "a")]
    with capture_logs() as logs:
        case.begin(claims=slots[0])
        wait_until(lambda: [line for line in logs if line.get("reason") == "canceled"], "the word")
        stop(case)
    assert case.queue.reports == []


def test_a_node_that_is_drained_hands_back_what_it_has_set_aside(
    case: Case, slots: tuple[FolderClaims, FolderClaims], taken: Path
) -> None:
    case.queue.drain = True
    case.queue.jobs = [job_in(taken, "a")]
    case.begin(claims=slots[0])
    wait_until(lambda: case.queue.reports == [("released", "a")], "the job to be handed back")
    stop(case)


def test_no_more_jobs_are_set_aside_than_the_limit(
    case: Case, slots: tuple[FolderClaims, FolderClaims], taken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_aside, "MAX_SET_ASIDE", 2)
    monkeypatch.setattr(set_aside, "LOOK_S", 0.01)
    idle, busy = slots
    looked: list[object] = []
    look = idle.are_free
    monkeypatch.setattr(idle, "are_free", lambda folders: looked.append(folders) or look(folders))
    case.queue.jobs = [job_in(taken, job_id) for job_id in "abc"]
    case.begin(claims=idle)
    wait_until(lambda: len(looked) > 8, "the worker to look again")
    assert [job.id for job in case.queue.jobs] == ["c"]
    busy.give_back("busy 1")
    wait_until(lambda: ("completed", "c") in case.queue.reports, "the last job")
    stop(case)


def test_a_job_that_found_no_room_beside_other_slots_is_not_tried_again_at_once(
    case: Case, slots: tuple[FolderClaims, FolderClaims], tmp_path: Path
) -> None:
    case.engine.full = {"a"}
    case.queue = Requeueing(jobs=[job_in(tmp_path / "own", "a"), shell_job("true", id="b")])
    case.begin(claims=slots[0])
    wait_until(lambda: ("completed", "b") in case.queue.reports, "the job behind it")
    stop(case)
    tried = [sync.calls for sync in case.engine.syncs]
    assert tried[0] == ["download", "clean"]  # in its own folder
    assert tried[1][:2] == ["download", "watch"]
