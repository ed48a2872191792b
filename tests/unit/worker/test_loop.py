from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from kelpie.errors import ForbiddenError, StartupError, UnavailableError
from kelpie_worker import disk, loop
from kelpie_worker.attempt import Attempt
from kelpie_worker.claims import FolderClaims
from kelpie_worker.deletion_cost import MAX_DELETION_COST, LastUploads
from kelpie_worker.disk import MiB
from kelpie_worker.exit_codes import RECREATE_CONTAINER, REPLACE_NODE, STOPPED
from kelpie_worker.imds import MetadataService
from kelpie_worker.loop import Worker
from kelpie_worker.state import StateFile
from kelpie_worker.stop import Stop
from tests.unit.worker.conftest import ScriptedServer
from tests.unit.worker.doubles import MemoryEngine, MemoryQueue, settings, shell_job
from tests.waiting import wait_until

NOBODY = "http://127.0.0.1:1"


class Case:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.queue = MemoryQueue()
        self.engine = MemoryEngine()
        self.stop = Stop()
        self.file = StateFile(folder / "state.json")
        self.file.open()
        self.code: list[int] = []
        self.thread: threading.Thread | None = None

    def begin(self, imds: str = NOBODY, claims: FolderClaims | None = None, **values: Any) -> None:
        worker = Worker(
            settings=settings(self.folder, **values),
            queue=self.queue,
            engine=self.engine,
            state=self.file,
            imds=MetadataService(imds),
            stop=self.stop,
            claims=claims,
        )
        self.thread = threading.Thread(target=lambda: self.code.append(worker.run()), daemon=True)
        self.thread.start()

    def end(self) -> int:
        assert self.thread is not None
        self.thread.join(60)
        assert not self.thread.is_alive()
        return self.code[0]


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    case = Case(tmp_path)
    yield case
    case.file.close()


def test_the_next_job_starts_while_the_outputs_of_the_last_are_on_their_way(case: Case) -> None:
    case.engine.blocks = {"finalize"}
    case.queue.jobs = [shell_job("touch a", id="a"), shell_job("touch b", id="b")]
    case.begin()
    wait_until((case.folder / "b").exists, "the second job to run")
    assert case.queue.reports == []
    case.stop.request()
    case.engine.go.set()
    assert case.end() == STOPPED
    assert {report[1] for report in case.queue.reports} == {"a", "b"}


def test_a_job_that_kills_its_guardian_does_not_come_back_for_ever(case: Case) -> None:
    case.queue.jobs = [shell_job("kill -9 $PPID; exec sleep 60", id=each) for each in ("a", "b", "a", "a")]
    case.begin()
    wait_until(lambda: len(case.queue.reports) == 4, "the reports")
    case.stop.request()
    assert case.end() == STOPPED
    assert [report[:2] for report in case.queue.reports] == [
        ("released", "a"),
        ("released", "b"),
        ("released", "a"),
        ("app_failed", "a"),
    ]


def test_a_stop_waits_for_the_outputs_of_earlier_jobs_and_releases_the_running_one(case: Case) -> None:
    case.engine.blocks = {"finalize"}
    case.queue.jobs = [shell_job("exit 0", id="a"), shell_job("touch up; sleep 60", id="b")]
    case.begin()
    wait_until((case.folder / "up").exists, "the second job to run")
    case.stop.request()
    wait_until(lambda: ("released", "b") in case.queue.reports, "the running job to be released")
    assert case.thread is not None
    assert case.thread.is_alive()
    case.engine.go.set()
    assert case.end() == STOPPED
    assert case.queue.reports == [("released", "b"), ("completed", "a")]


def test_a_second_stop_gives_up_the_outputs_on_their_way(case: Case) -> None:
    case.engine.blocks = {"finalize"}
    case.queue.jobs = [shell_job("exit 0", id="a")]
    case.begin()
    assert case.engine.blocked.wait(30)
    case.stop.request()
    case.stop.request()
    assert case.end() == STOPPED
    assert case.queue.reports == []


def test_a_node_banned_from_too_many_jobs_asks_for_another_after_all_transfers(
    case: Case, server: ScriptedServer
) -> None:
    case.engine.blocks = {"finalize"}
    case.queue.node_bans = 5
    case.queue.jobs = [shell_job("exit 0", id="a"), shell_job("exit 1", id="b"), shell_job("touch c", id="c")]
    case.begin(server.url)
    wait_until(lambda: case.queue.reports, "the failure to be reported")
    assert server.requests == []
    case.engine.go.set()
    wait_until(lambda: server.requests, "the metadata service to be asked")
    assert [report[1] for report in case.queue.reports] == ["b", "a"]
    assert server.requests[0].path == "/v1/reallocate"
    case.stop.request()  # as the provider does then
    assert case.end() == STOPPED
    assert not (case.folder / "c").exists()


def test_the_limit_of_failures_is_a_setting(case: Case) -> None:
    case.queue.node_bans = 2
    case.queue.jobs = [shell_job("exit 1")]
    case.begin(max_job_failures=2)
    assert case.end() == REPLACE_NODE


def test_fewer_bans_than_the_limit_go_on(case: Case) -> None:
    case.queue.node_bans = 4
    case.queue.jobs = [shell_job("exit 1"), shell_job("touch up", id="b")]
    case.begin()
    wait_until(lambda: ("completed", "b") in case.queue.reports, "the next job")
    case.stop.request()
    assert case.end() == STOPPED


@pytest.mark.parametrize("status", [404, 500])
def test_a_metadata_service_that_refuses_gives_the_documented_code(
    case: Case, server: ScriptedServer, status: int
) -> None:
    server.answer = lambda request: (status, {})
    case.queue.node_bans = 5
    case.queue.jobs = [shell_job("exit 1")]
    case.begin(server.url)
    assert case.end() == REPLACE_NODE == 86


def test_outputs_that_cannot_be_stored_count_towards_the_ban(case: Case) -> None:
    case.engine.fails = {"finalize"}
    case.queue.node_bans = 5
    case.queue.jobs = [shell_job("exit 0")]
    case.begin()
    assert case.end() == REPLACE_NODE


def test_a_node_without_work_for_too_long_asks_to_be_replaced(case: Case) -> None:
    case.begin(max_time_with_no_work_s=0.2)
    assert case.end() == REPLACE_NODE


def test_an_api_out_of_reach_is_no_lack_of_work_and_never_ends_the_worker(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_UNREACHABLE_PAUSE_S", (0.01, 0.05))
    case.queue.errors["lease"] = [UnavailableError("down")] * 8
    case.queue.jobs = [shell_job("touch up")]
    case.begin(max_time_with_no_work_s=0.01)
    wait_until((case.folder / "up").exists, "the job to run when the API is back")
    assert case.end() == REPLACE_NODE


def test_a_refused_key_is_asked_with_again(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_REFUSED_PAUSE_S", (0.01, 0.05))
    case.queue.errors["lease"] = [ForbiddenError("who?")] * 3
    case.queue.jobs = [shell_job("touch up")]
    case.begin()
    wait_until((case.folder / "up").exists, "the job to run when the key is known")
    case.stop.request()
    assert case.end() == STOPPED


def test_what_can_never_work_ends_the_worker(case: Case) -> None:
    case.queue.down = StartupError("no redis")
    worker = Worker(
        settings=settings(case.folder),
        queue=case.queue,
        engine=case.engine,
        state=case.file,
        imds=MetadataService(NOBODY),
        stop=case.stop,
    )
    with pytest.raises(StartupError):
        worker.run()


def test_a_fresh_container_per_job_is_asked_for_after_its_data_is_through(
    case: Case, server: ScriptedServer
) -> None:
    case.engine.blocks = {"finalize"}
    case.queue.jobs = [shell_job("exit 0", id="a"), shell_job("touch b", id="b")]
    case.begin(server.url, recreate_between_jobs=True)
    assert case.engine.blocked.wait(30)
    assert server.requests == []
    case.engine.go.set()
    wait_until(lambda: server.requests, "the metadata service to be asked")
    assert server.requests[0].path == "/v1/recreate"
    case.stop.request()
    assert case.end() == STOPPED
    assert case.queue.reports == [("completed", "a")]


def test_without_a_metadata_service_a_fresh_container_is_asked_for_by_exit_code(case: Case) -> None:
    case.queue.jobs = [shell_job("exit 0")]
    case.begin(recreate_between_jobs=True)
    assert case.end() == RECREATE_CONTAINER


def test_a_worker_that_retires_finishes_what_it_has_and_takes_no_other_job(case: Case) -> None:
    case.engine.blocks = {"finalize"}
    script = "touch up; while [ ! -e go ]; do sleep 0.02; done"
    case.queue.jobs = [shell_job(script, id="a"), shell_job("touch b", id="b")]
    case.begin()
    wait_until((case.folder / "up").exists, "the job to run")
    case.stop.retire()
    case.stop.retire()
    (case.folder / "go").touch()
    assert case.engine.blocked.wait(30)
    case.engine.go.set()
    assert case.end() == STOPPED
    assert case.queue.reports == [("completed", "a")]
    assert [job.id for job in case.queue.jobs] == ["b"]


def test_a_worker_that_retires_takes_the_job_that_its_open_poll_was_given(case: Case) -> None:
    def given() -> None:
        case.queue.on_empty = None
        case.stop.retire()
        case.queue.jobs = [shell_job("exit 0", id="a")]

    lease = case.queue.lease

    def given_while_retiring(wait_s: float) -> Any:
        return lease(wait_s) or lease(0)

    case.queue.lease = given_while_retiring  # type: ignore[method-assign]
    case.queue.on_empty = given
    case.begin()
    assert case.end() == STOPPED
    assert case.queue.reports == [("completed", "a")]


def test_a_worker_that_retires_before_it_began_takes_no_job(case: Case) -> None:
    case.queue.jobs = [shell_job("touch a", id="a")]
    case.stop.retire()
    case.begin()
    assert case.end() == STOPPED
    assert case.queue.stopped.is_set()
    assert case.queue.reports == []


def test_a_retiring_worker_that_is_stopped_hands_its_job_back(case: Case) -> None:
    case.queue.jobs = [shell_job("touch up; sleep 60", id="a")]
    case.begin()
    wait_until((case.folder / "up").exists, "the job to run")
    case.stop.retire()
    case.stop.request()
    assert case.end() == STOPPED
    assert case.queue.reports == [("released", "a")]


def test_the_open_poll_of_an_idle_worker_that_retires_ends_at_once(case: Case) -> None:
    case.queue.jobs = [shell_job("exit 0", id="a")]
    polls = threading.Event()
    case.queue.on_empty = polls.set
    case.begin()
    wait_until(lambda: ("completed", "a") in case.queue.reports, "the job's data to be through")
    assert polls.wait(30)
    wait_until(lambda: not any("finalize" in t.name for t in threading.enumerate()), "its thread to end")
    assert not case.queue.stopped.is_set()
    case.stop.retire()
    assert case.queue.stopped.is_set()
    assert case.end() == STOPPED


def test_the_open_poll_of_a_worker_with_outputs_on_their_way_is_waited_for(case: Case) -> None:
    case.engine.blocks = {"finalize"}
    case.queue.jobs = [shell_job("exit 0", id="a")]
    polls = threading.Event()
    case.queue.on_empty = polls.set
    case.begin()
    assert case.engine.blocked.wait(30)
    assert polls.wait(30)
    case.stop.retire()
    assert not case.queue.stopped.is_set()
    case.engine.go.set()
    assert case.end() == STOPPED
    assert case.queue.reports == [("completed", "a")]


def test_without_room_no_job_is_asked_for_until_there_is(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    free, looked = [10 * MiB], []
    monkeypatch.setattr(disk, "free_bytes", lambda folder: looked.append(folder) or free[0])
    monkeypatch.setattr(loop, "_LOW_SPACE_PAUSE_S", 0.01)
    case.queue.jobs = [shell_job("touch a", id="a")]
    case.begin(min_free_disk_mib=64)
    wait_until(lambda: len(looked) >= 3, "the worker to look again")
    assert len(case.queue.jobs) == 1
    free[0] = 100 * MiB
    wait_until(lambda: case.queue.reports, "the job")
    case.stop.request()
    assert case.end() == STOPPED


def test_a_job_whose_folders_have_no_room_goes_to_another_node_and_this_one_waits(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = case.folder / "full"
    free, looked = {full: 1 * MiB}, []
    monkeypatch.setattr(
        disk, "free_bytes", lambda folder: looked.append(folder) or free.get(folder, 100 * MiB)
    )
    monkeypatch.setattr(loop, "_LOW_SPACE_PAUSE_S", 0.01)
    case.engine.folders = [full]
    case.queue.jobs = [shell_job("touch a", id=name) for name in "ab"]
    case.begin(min_free_disk_mib=64)
    wait_until(lambda: case.queue.reports == [("released", "a")], "the release")
    wait_until(lambda: looked.count(full) >= 3, "the worker to look again")
    assert len(case.queue.jobs) == 1  # the other job is not taken only to be released again
    del free[full]
    wait_until(lambda: ("completed", "b") in case.queue.reports, "the other job")
    case.stop.request()
    assert case.end() == STOPPED


def test_the_cost_of_deleting_a_node_is_the_work_that_it_would_lose(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("kelpie_worker.deletion_cost.time.monotonic", lambda: now[0])
    uploads = LastUploads(case.file)
    worker = Worker(
        settings=settings(case.folder),
        queue=case.queue,
        engine=case.engine,
        state=case.file,
        imds=MetadataService(NOBODY),
        stop=case.stop,
        uploads=uploads,
    )
    assert worker.deletion_cost() == 0
    job = shell_job("true", id="a")
    worker._running = attempt = Attempt(
        job,
        settings=settings(case.folder),
        queue=case.queue,
        engine=case.engine,
        state=case.file,
        stop=case.stop,
    )
    assert worker.deletion_cost() == 1
    attempt._run._started_s = 1000.0
    now[0] = 1100.0
    assert worker.deletion_cost() == 101
    uploads.upload_ended("a", "checkpoint")
    assert worker.deletion_cost() == 1
    now[0] = 1110.0
    uploads.upload_ended("earlier", "output")  # of another job
    worker._finals = [(attempt, threading.current_thread())]
    assert worker.deletion_cost() == MAX_DELETION_COST


def test_a_job_without_room_waits_for_outputs_that_leave_the_disk_and_else_fails(case: Case) -> None:
    case.engine.blocks, case.engine.full = {"finalize"}, {"b"}
    case.queue.jobs = [shell_job("true", id="a"), shell_job("true", id="b"), shell_job("true", id="c")]
    case.begin()
    wait_until(lambda: case.queue.reports == [("released", "b")], "the job to be handed back")
    assert [job.id for job in case.queue.jobs] == ["c"]  # nothing is asked for until there is more room
    case.engine.go.set()
    wait_until(lambda: ("completed", "c") in case.queue.reports, "the next job")
    case.queue.jobs = [shell_job("true", id="b")]
    wait_until(lambda: case.queue.reports[-1][:2] == ("sync_failed", "b"), "the job to fail")
    case.stop.request()
    assert case.end() == STOPPED
