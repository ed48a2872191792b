from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from kelpie.errors import LeaseLostError, NotFoundError, UnavailableError
from kelpie.job import CommandEnd, Direction, JobStatus, Sync, SyncEntry
from kelpie.transfers import TransferReport
from kelpie_worker import disk
from kelpie_worker.attempt import Attempt, State
from kelpie_worker.claims import FolderClaims
from kelpie_worker.progress_file import ProgressReader
from kelpie_worker.state import StateFile
from kelpie_worker.stop import Stop
from tests.unit.worker.doubles import MemoryEngine, MemoryQueue, MemorySync, settings, shell_job
from tests.waiting import wait_until

FOREVER = "trap 'exit 0' TERM; touch up; while :; do sleep 0.02; done"


class Case:
    """One attempt, driven in a thread that plays the worker's main thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.queue = MemoryQueue()
        self.engine = MemoryEngine()
        self.stop = Stop()
        self.file = StateFile(folder / "state.json")
        self.file.open()
        self.attempt: Any = None
        self.thread: threading.Thread | None = None

    def begin(
        self, script: str, *, guardians_lost: int = 0, claims: FolderClaims | None = None, **values: Any
    ) -> None:
        self.attempt = Attempt(
            shell_job(script, **values),
            settings=settings(self.folder),
            queue=self.queue,
            engine=self.engine,
            state=self.file,
            stop=self.stop,
            guardians_lost=guardians_lost,
            claims=claims,
        )

        def drive() -> None:
            self.attempt.run()
            if self.attempt.finalizing:
                self.attempt.finalize()

        self.thread = threading.Thread(target=drive, daemon=True)
        self.thread.start()

    def end(self) -> State:
        assert self.thread is not None
        self.thread.join(60)
        assert not self.thread.is_alive()
        state: State = self.attempt.state
        return state

    def run(self, script: str, **values: Any) -> State:
        self.begin(script, **values)
        return self.end()

    def slots(self) -> list[FolderClaims]:
        """Two slots of this machine."""
        folders = [self.folder / f"kelpie-slot-{number}" for number in (1, 2)]
        for folder in folders:
            folder.mkdir()
        return [FolderClaims(folder) for folder in folders]

    @property
    def sync(self) -> MemorySync:
        return self.engine.syncs[-1]

    def jobs(self) -> Any:
        return json.loads(self.file.path.read_text())["jobs"]

    def wait_up(self) -> None:
        wait_until((self.folder / "up").exists, "the command to be up")


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    case = Case(tmp_path)
    yield case
    case.file.close()


def test_exit_0_is_reported_completed_after_every_step_of_the_data(case: Case) -> None:
    assert case.run("exit 0") is State.DONE
    assert case.queue.reports == [("completed", "job-1")]
    assert case.sync.calls == ["download", "watch", "drain", "stage", "finalize", "clean"]
    assert [(job["status"], job["exitCode"]) for job in case.jobs()] == [("completed", 0)]


def test_heartbeats_run_from_the_lease_until_completed_is_answered(case: Case) -> None:
    case.engine.blocks = {"download"}
    case.begin("exit 0", heartbeat_interval=1)
    wait_until(lambda: case.queue.beats >= 2, "heartbeats during the download")
    case.engine.blocks = {"finalize"}
    wait_until(lambda: case.attempt.state is State.FINALIZING, "finalizing")
    beats = case.queue.beats
    wait_until(lambda: case.queue.beats >= beats + 2, "heartbeats during the final upload")
    case.queue.errors["completed"] = [UnavailableError("down")] * 3
    case.engine.go.set()
    assert case.end() is State.DONE
    assert case.queue.reports == [("completed", "job-1")]


@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [
        ("exit 3", 3, "exit code 3"),
        ("kill -9 $$", 137, "killed by signal 9 (SIGKILL)"),
        ("kill -11 $$", 139, "killed by signal 11 (SIGSEGV)"),
    ],
)
def test_a_bad_end_of_the_command_is_an_app_failure_after_what_changed_is_stored(
    case: Case, script: str, code: int, reason: str
) -> None:
    assert case.run(script) is State.DONE
    assert case.queue.reports == [("app_failed", "job-1", code, reason)]
    assert case.sync.calls == ["download", "watch", "drain", "clean"]
    assert case.attempt.node_bans == 1
    assert [(job["status"], job["exitCode"]) for job in case.jobs()] == [("failed", code)]


def test_how_the_command_failed_is_reported_with_its_last_words(case: Case) -> None:
    case.run("seq 60 >&2; echo out; kill -11 $$")
    (end,) = case.queue.ends
    assert end.signal == 11
    assert end.out_of_memory is False
    assert end.stderr_tail == "\n".join(map(str, range(11, 61)))


def test_data_that_cannot_be_stored_is_no_end_of_the_command(case: Case) -> None:
    case.engine.fails = {"drain"}
    case.run("echo done >&2")
    assert case.queue.ends == [CommandEnd()]


def test_a_command_that_kills_its_guardian_is_handed_on_uncounted(case: Case) -> None:
    assert case.run("kill -9 $PPID; sleep 60") is State.DONE
    assert case.queue.reports == [("released", "job-1")]


def test_a_command_that_kills_its_guardian_again_and_again_fails(case: Case) -> None:
    case.run("kill -9 $PPID; sleep 60", guardians_lost=2)
    ((outcome, _, code, reason),) = case.queue.reports
    assert (outcome, code) == ("app_failed", 137)
    assert "guards the command" in reason


def test_a_signal_to_every_process_of_the_node_is_a_stop_and_no_failure(case: Case) -> None:
    case.begin("touch up; kill -TERM $$; sleep 60")
    case.wait_up()
    case.stop.request()
    assert case.end() is State.DONE
    assert case.queue.reports == [("released", "job-1")]


def test_a_missing_command_is_an_app_failure(case: Case) -> None:
    assert case.run("", command="no-such-command") is State.DONE
    ((outcome, _, code, reason),) = case.queue.reports
    assert (outcome, code) == ("app_failed", 127)
    assert "no-such-command" in reason


@pytest.mark.parametrize("step", ["prepare", "download", "watch"])
def test_without_its_data_the_command_never_starts(case: Case, step: str) -> None:
    case.engine.fails = {step}
    case.run("touch up")
    assert case.queue.reports == [("sync_failed", "job-1", None, f"{step} failed")]
    assert not (case.folder / "up").exists()


@pytest.mark.parametrize("notices", ["before it", "within it"])
@pytest.mark.parametrize(("own_mib", "told"), [(0, "released"), (100, "sync_failed")])
def test_a_disk_that_others_fill_during_the_download_is_no_failure_of_the_job(
    case: Case, monkeypatch: pytest.MonkeyPatch, own_mib: int, told: str, notices: str
) -> None:
    folder = case.folder / "in"
    folder.mkdir()
    with (folder / "input").open("wb") as file:
        file.truncate(own_mib * disk.MiB)
    free = iter([100 * disk.MiB, disk.MiB])  # before the download, and after it
    monkeypatch.setattr(disk, "free_bytes", lambda folder: next(free))
    case.engine.folders = [folder]
    case.engine.fails, case.engine.full = (
        (set(), {"job-1"}) if notices == "before it" else ({"download"}, set())
    )
    case.run("touch up")
    assert [report[0] for report in case.queue.reports] == [told]
    assert not (case.folder / "up").exists()


def test_a_disk_without_room_for_the_notes_on_a_job_is_no_failure_of_the_job(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 0)
    case.engine.fails = {"prepare"}
    case.run("touch up")
    assert case.queue.reports == [("released", "job-1")]


def test_a_job_whose_own_data_fills_a_small_disk_is_not_handed_on(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    (case.folder / "in").mkdir()
    with (case.folder / "in" / "input").open("wb") as file:
        file.truncate(40 * disk.MiB)
    # smaller than what is wanted free (64 MiB), larger than that without the job's own data
    usage = (60 * disk.MiB, 40 * disk.MiB, 20 * disk.MiB)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    case.engine.folders = [case.folder / "in"]
    case.engine.fails = {"download"}
    case.run("touch up")
    assert [report[0] for report in case.queue.reports] == ["sync_failed"]


@pytest.mark.parametrize(("beside", "told"), [(True, "released"), (False, "sync_failed")])
def test_a_job_that_has_no_room_beside_another_slots_job_is_no_failure(
    case: Case, beside: bool, told: str
) -> None:
    mine, others = case.slots()
    if beside:
        others.take("job-2 1", [case.folder / "theirs"])
    case.engine.full = {"job-1"}
    case.begin("touch up", claims=mine)
    case.end()
    assert [report[0] for report in case.queue.reports] == [told]
    assert bool(case.attempt.taken) is beside  # the loop waits until
    others.give_back("job-2 1")
    assert mine.are_free(case.attempt.taken)


@pytest.mark.parametrize("step", ["drain", "stage", "finalize"])
def test_data_that_cannot_be_stored_fails_a_command_that_exited_0(case: Case, step: str) -> None:
    case.engine.fails = {step}
    assert case.run("exit 0") is State.DONE
    assert case.queue.reports == [("sync_failed", "job-1", 0, f"{step} failed")]
    assert case.sync.calls[-1] == "clean"


def test_data_that_cannot_be_stored_does_not_hide_an_app_failure(case: Case) -> None:
    case.engine.fails = {"drain"}
    case.run("exit 4")
    assert case.queue.reports == [("app_failed", "job-1", 4, "exit code 4")]


def test_a_cancel_while_running_ends_the_command_and_nothing_is_reported(case: Case) -> None:
    case.begin(FOREVER, heartbeat_interval=1)
    case.wait_up()
    case.queue.status, case.queue.reason = JobStatus.CANCELED, "canceled"
    assert case.end() is State.ABANDONED  # though it exits 0
    assert case.queue.reports == []
    assert case.sync.calls == ["download", "watch", "clean"]
    assert case.sync.abandoned
    assert case.jobs() == []


@pytest.mark.parametrize("step", ["download", "drain", "finalize"])
def test_a_cancel_during_a_transfer_is_honoured(case: Case, step: str) -> None:
    case.engine.blocks = {step}
    case.begin("touch up", heartbeat_interval=1)
    assert case.engine.blocked.wait(30)
    case.queue.status, case.queue.reason = JobStatus.CANCELED, "canceled"
    assert case.end() is State.ABANDONED
    assert case.queue.reports == []
    assert (case.folder / "up").exists() is (step != "download")


def test_a_queue_out_of_reach_beyond_the_lease_abandons_a_running_job(case: Case) -> None:
    case.begin(FOREVER, heartbeat_interval=1)
    case.wait_up()
    case.queue.down = UnavailableError("down")
    assert case.end() is State.ABANDONED
    assert case.queue.reports == []


def test_a_result_outlives_an_outage_longer_than_the_lease(case: Case) -> None:
    case.engine.blocks = {"finalize"}
    case.begin("exit 0", heartbeat_interval=1)
    assert case.engine.blocked.wait(30)
    case.queue.down = UnavailableError("down")
    case.engine.go.set()
    wait_until(lambda: case.attempt._heartbeat.remaining_s < -0.5, "the lease to be over")
    case.queue.down = None
    assert case.end() is State.DONE
    assert case.queue.reports == [("completed", "job-1")]


@pytest.mark.parametrize("error", [LeaseLostError("x", reason="superseded"), NotFoundError("gone")])
def test_a_lease_lost_at_the_last_moment_is_dropped_quietly(case: Case, error: Exception) -> None:
    case.queue.errors["completed"] = [error]
    assert case.run("exit 0") is State.ABANDONED
    assert case.queue.reports == []


def test_a_stop_gives_the_command_its_grace_stores_what_changed_and_releases(case: Case) -> None:
    case.begin(FOREVER)
    case.wait_up()
    case.stop.request()
    assert case.end() is State.DONE
    assert case.queue.reports == [("released", "job-1")]
    assert case.sync.calls == ["download", "watch", "drain", "clean"]


def test_a_drained_node_hands_its_job_back_as_at_a_stop_and_goes_on(case: Case) -> None:
    case.begin(FOREVER, heartbeat_interval=1)
    case.wait_up()
    case.queue.drain = True
    assert case.end() is State.DONE
    assert case.queue.reports == [("released", "job-1")]
    assert case.sync.calls == ["download", "watch", "drain", "clean"]
    assert not case.stop.requested.is_set()


def test_a_drain_during_the_download_releases_at_once(case: Case) -> None:
    case.engine.blocks = {"download"}
    case.queue.drain = True
    case.begin("touch up")
    assert case.end() is State.DONE
    assert case.queue.reports == [("released", "job-1")]
    assert not (case.folder / "up").exists()


def test_a_drain_after_exit_0_still_completes_the_job(case: Case) -> None:
    case.engine.blocks = {"finalize"}
    case.begin("exit 0", heartbeat_interval=1)
    assert case.engine.blocked.wait(30)
    case.queue.drain = True
    beats = case.queue.beats
    wait_until(lambda: case.queue.beats > beats + 1, "the worker to hear of it")
    case.engine.go.set()
    assert case.end() is State.DONE
    assert case.queue.reports == [("completed", "job-1")]


def test_a_stop_during_the_download_releases_at_once(case: Case) -> None:
    case.engine.blocks = {"download"}
    case.begin("touch up")
    assert case.engine.blocked.wait(30)
    case.stop.request()
    assert case.end() is State.DONE
    assert case.queue.reports == [("released", "job-1")]
    assert not (case.folder / "up").exists()


def test_a_job_that_arrives_with_the_stop_is_released_untouched(case: Case) -> None:
    case.stop.request()
    assert case.run("touch up") is State.DONE
    assert case.queue.reports == [("released", "job-1")]
    assert case.sync.calls == ["clean"]


def test_a_stop_after_exit_0_still_completes_the_job(case: Case) -> None:
    case.engine.blocks = {"finalize"}
    case.begin("exit 0")
    assert case.engine.blocked.wait(30)
    case.stop.request()
    case.engine.go.set()
    assert case.end() is State.DONE
    assert case.queue.reports == [("completed", "job-1")]


def test_a_second_stop_is_at_once_and_waits_for_no_release(case: Case) -> None:
    case.begin("trap '' TERM; touch up; while :; do sleep 0.02; done")
    case.wait_up()
    case.stop.request()
    case.stop.request()
    assert case.end() is State.ABANDONED
    assert case.queue.reports == []


def test_a_second_stop_ends_the_wait_for_an_api_out_of_reach(case: Case) -> None:
    case.queue.errors["completed"] = [UnavailableError("down")] * 10_000
    case.begin("exit 0")
    wait_until(lambda: case.attempt.state is State.REPORTING, "the report")
    case.stop.request()
    case.stop.request()
    assert case.end() is State.ABANDONED


def test_a_failure_to_clean_up_changes_no_result(case: Case) -> None:
    case.engine.fails = {"clean"}
    assert case.run("exit 0") is State.DONE
    assert case.queue.reports == [("completed", "job-1")]


def test_a_defect_counts_as_a_failure_and_harms_nothing_else(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: MemorySync) -> None:
        raise RuntimeError("hunter2")

    monkeypatch.setattr(MemorySync, "download", broken)
    assert case.run("touch up") is State.DONE
    assert case.queue.reports == [
        ("sync_failed", "job-1", None, "internal error of the worker: RuntimeError")
    ]


def test_the_command_finds_itself_in_the_state_file(case: Case) -> None:
    case.run('grep -q "\\"id\\": \\"$KELPIE_JOB_ID\\", \\"status\\": \\"running\\"" "$KELPIE_STATE_FILE"')
    assert case.queue.reports == [("completed", "job-1")]


def test_what_a_command_says_of_its_progress_is_told_before_its_end(case: Case) -> None:
    script = 'echo \'{"step": 7, "total": 7, "metrics": {"loss": 0.5}}\' >> "$KELPIE_PROGRESS_FILE"'
    assert case.run(script) is State.DONE
    [told] = case.queue.progress
    assert (told.step, told.fraction, told.metrics) == (7, 1.0, {"loss": 0.5})
    assert [path.name for path in case.folder.iterdir()] == ["state.json"]
    assert case.run('echo nonsense > "$KELPIE_PROGRESS_FILE"') is State.DONE
    assert [report[0] for report in case.queue.reports] == ["completed", "completed"]
    assert len(case.queue.progress) == 1


@pytest.mark.parametrize(("script", "report"), [("true", "completed"), ("false", "failed")])
def test_the_last_figures_of_transfers_are_told_before_the_end(
    case: Case, monkeypatch: pytest.MonkeyPatch, script: str, report: str
) -> None:
    heard: list[TransferReport] = []
    send = getattr(case.queue, report)

    def sent(*said: Any) -> Any:
        heard.append(case.queue.transfers[-1])
        return send(*said)

    monkeypatch.setattr(case.queue, report, sent)
    case.queue.errors[report] = [UnavailableError("reset")]
    assert case.run(script) is State.DONE
    assert heard == [case.sync.transfers] * 2
    assert heard[0].after[0].files == case.sync.calls.count("finalize")


def open_files() -> set[str]:
    """What the open descriptors of this process lead to."""
    return {str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()}


def test_without_a_thread_to_follow_its_progress_a_command_leaves_no_pipe_open(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(reader: ProgressReader) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ProgressReader, "start", no_thread)
    before = open_files()
    assert case.run("touch up") is State.DONE
    assert case.queue.reports == [
        ("sync_failed", "job-1", None, "internal error of the worker: RuntimeError")
    ]
    wait_until(lambda: open_files() <= before, "the pipes to be closed")
    assert not (case.folder / "up").exists()


def test_an_attempt_that_cannot_even_be_reported_gives_back_what_it_holds(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, others = case.slots()
    entry = SyncEntry("bucket", "out/", str(case.folder / "data"), Direction.UPLOAD)
    monkeypatch.setattr(StateFile, "command_exited", broken)
    monkeypatch.setattr(StateFile, "job_ended", broken)
    case.engine.blocks = {"download"}
    case.begin("exit 0", sync=Sync(after=(entry,)), claims=mine)
    assert case.engine.blocked.wait(30)
    assert not others.are_free([case.folder / "data"])
    case.engine.go.set()
    assert case.end() is State.ABANDONED
    assert others.are_free([case.folder / "data"])
    assert case.sync.calls[-1] == "clean"
    assert case.stop._listeners == []


def broken(*_: object, **__: object) -> None:
    raise RuntimeError("a defect")
