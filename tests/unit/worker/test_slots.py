"""Several workers on one machine, as real processes, against a server that hands out jobs and hears
reports."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from kelpie_worker import slots as supervisor
from kelpie_worker.exit_codes import BAD_SETTINGS, STOPPED
from kelpie_worker.slot_places import OtherSlots, settings_of_slot
from kelpie_worker.slots import Slots, recover_others
from kelpie_worker.stop import Stop
from kelpie_worker.sync.folders import HIDDEN_PREFIX
from kelpie_worker.sync.settings import SyncSettings
from tests.unit.worker.conftest import Request, ScriptedServer
from tests.unit.worker.doubles import settings
from tests.waiting import wait_until

KELPIE_WORKER = (sys.executable, "-m", "kelpie.cli", "worker")
WAIT = (
    "trap 'exit 0' TERM; env > env.tmp.$KELPIE_SLOT; mv env.tmp.$KELPIE_SLOT env.$KELPIE_SLOT;"
    " while [ ! -e go ]; do sleep 0.02; done"
)


class Machine:
    """One machine's supervisor, and the queue that it serves."""

    def __init__(self, server: ScriptedServer, folder: Path) -> None:
        self.folder = folder
        self.jobs: list[dict[str, Any]] = []
        self.reports: list[tuple[str, str]] = []
        self.nodes: set[str] = set()
        self.reallocated: list[Any] = []
        self.node_bans = 1
        self.requeues = False  # whether a job that is handed back is the first to be handed out again
        self._handed_out: dict[str, dict[str, Any]] = {}
        self._server = server
        self._lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        server.answer = self._answer

    def _answer(self, request: Request) -> tuple[int, Any]:
        path = request.path.partition("?")[0]
        if path == "/v1/reallocate":
            self.reallocated.append(request.body)
            return 200, {}
        if path.startswith(("/v1/", "/latest", "/computeMetadata", "/metadata")):
            return 404, {}
        if path == "/work":
            self.nodes.add(request.path)
            with self._lock:
                job = self.jobs.pop(0) if self.jobs else None
                if job is not None:
                    self._handed_out[job["id"]] = job
            return 200, [] if job is None else [job]
        _, _, job_id, what = path.split("/")
        if what == "heartbeat":
            return 200, {"status": "running"}
        if what != "logs":
            self.reports.append((what, job_id))
        if what == "released" and self.requeues:
            self.jobs.insert(0, self._handed_out[job_id])
        return 200, {"message": "heard", "node_bans": self.node_bans}

    def job(self, name: str, script: str, **values: Any) -> None:
        self.jobs.append(
            {
                "id": name,
                "command": "sh",
                "arguments": ["-c", script],
                "container_group_id": "q",
                "lease": f"secret-{name}",
                "sync": {},
            }
            | values
        )

    def start(self, slots: int = 2, *, beside: str = "", **env: str) -> None:
        """``beside``: what the shell that becomes the supervisor does before."""
        base = {
            name: value for name, value in os.environ.items() if not name.startswith(("KELPIE_", "SALAD_"))
        }
        urls = {"KELPIE_API_URL": self._server.url, "KELPIE_IMDS_URL": self._server.url}
        own = {"KELPIE_API_KEY": "k", "KELPIE_TEMP_DIR": str(self.folder), "KELPIE_DELETION_COST": "false"}
        self.process = subprocess.Popen(
            [
                "sh",
                "-c",
                f'{beside} exec "$@"',
                "sh",
                *KELPIE_WORKER,
                "--slots",
                str(slots),
                "--queue",
                "q",
                "--machine-id",
                "node-1",
            ],
            cwd=self.folder,
            env=base | urls | own | {"HEARTBEAT_INTERVAL_S": "1"} | env,
            start_new_session=True,
        )

    @property
    def family(self) -> list[psutil.Process]:
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def slots(self) -> dict[int, psutil.Process]:
        """The processes of the slots that live, by number."""
        found: dict[int, psutil.Process] = {}
        for process in self.family:
            with contextlib.suppress(psutil.Error):
                line = process.cmdline()
                if "kelpie_worker.slot" in line and process.status() != psutil.STATUS_ZOMBIE:
                    found[json.loads(line[-1])["slot"]] = process
        return found

    def wait_busy(self) -> int:
        """The number of the one slot whose command is up."""
        wait_until(lambda: list(self.folder.glob("env.?")), "the command to be up")
        [path] = self.folder.glob("env.?")
        return int(path.name[-1])

    def environment(self, slot: int) -> dict[str, str]:
        wait_until((self.folder / f"env.{slot}").exists, "the command to be up")
        lines = (self.folder / f"env.{slot}").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def end(self) -> int:
        assert self.process is not None
        return self.process.wait(60)


@pytest.fixture
def machine(server: ScriptedServer, tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(server, tmp_path)
    yield machine
    if machine.process is not None and machine.process.poll() is None:
        machine.process.kill()
        machine.process.wait()


def test_each_slot_runs_a_job_with_what_is_its_own_and_a_signal_to_all_releases_all(machine: Machine) -> None:
    machine.job("a", WAIT, environment={"CUDA_VISIBLE_DEVICES": "0"})
    machine.job("b", WAIT)
    machine.start(CUDA_VISIBLE_DEVICES="4,5,6,7")
    first, second = machine.environment(1), machine.environment(2)
    assert {first["KELPIE_JOB_ID"], second["KELPIE_JOB_ID"]} == {"a", "b"}
    assert (first["CUDA_VISIBLE_DEVICES"], second["CUDA_VISIBLE_DEVICES"]) == ("4,5", "6,7")
    for name in ("KELPIE_STATE_FILE", "KELPIE_PROGRESS_FILE", "INPUT_DIR", "OUTPUT_DIR", "CHECKPOINT_DIR"):
        assert first[name] != second[name], name
    shown = json.loads(Path(first["KELPIE_STATE_FILE"]).read_text())["jobs"]
    assert [job["id"] for job in shown] == [first["KELPIE_JOB_ID"]]
    assert all("machine_id=node-1&" in path for path in machine.nodes)
    assert machine.process is not None
    for process in (*machine.slots().values(), psutil.Process(machine.process.pid)):  # as systemd does
        process.send_signal(signal.SIGTERM)
    assert machine.end() == 0
    assert sorted(machine.reports) == [("released", "a"), ("released", "b")]


def test_nothing_outlives_a_supervisor_that_is_killed(machine: Machine) -> None:
    machine.job("a", f"trap '' TERM; {WAIT.partition(';')[2]}")
    machine.start()
    machine.wait_busy()
    family = machine.family
    assert len(family) >= 4  # two slots, a guardian, a command
    assert machine.process is not None
    machine.process.kill()
    machine.process.wait()
    wait_until(lambda: not any(one.is_running() for one in family), "all of it to end")
    assert machine.reports == []


def test_a_slot_that_dies_is_started_again_and_the_other_goes_on(machine: Machine) -> None:
    machine.job("a", WAIT)
    machine.start()
    busy = machine.wait_busy()
    machine.job("b", f"touch again; {WAIT}")
    wait_until((machine.folder / "again").exists, "the other slot's job")
    (machine.folder / f"env.{busy}").unlink()
    machine.job("c", WAIT)
    machine.slots()[busy].kill()
    assert machine.environment(busy)["KELPIE_JOB_ID"] == "c"
    (machine.folder / "go").touch()
    wait_until(lambda: len(machine.reports) == 2, "both to complete")
    assert sorted(machine.reports) == [("completed", "b"), ("completed", "c")]


def test_nothing_outlives_a_slot_that_dies_together_with_the_guardian_of_its_command(
    machine: Machine,
) -> None:
    machine.job("a", f"sleep 300 & {WAIT}")
    machine.start(beside="sleep 301 &")
    busy = machine.wait_busy()
    slot = machine.slots()[busy]
    [guardian] = slot.children()
    [sleeper] = [one for one in guardian.children(recursive=True) if one.cmdline() == ["sleep", "300"]]
    slot.suspend()  # it sees nothing of what happens to its guardian
    guardian.kill()
    slot.kill()
    wait_until(lambda: not sleeper.is_running(), "what the command has started to end")
    [bystander] = [one for one in machine.family if one.cmdline() == ["sleep", "301"]]
    bystander.kill()


def test_a_machine_is_replaced_when_every_slot_is_through(machine: Machine) -> None:
    machine.node_bans = 5
    machine.job("a", WAIT)
    machine.start()
    machine.wait_busy()
    machine.job("b", "exit 1")
    wait_until(lambda: ("failed", "b") in machine.reports, "the failure to be told")
    machine.job("c", "true")  # for nobody: this machine takes no other job
    wait_until(lambda: len(machine.slots()) == 1, "its slot to end")
    assert machine.reallocated == []
    (machine.folder / "go").touch()
    wait_until(lambda: len(machine.reallocated) == 1, "the machine to be given back")
    assert ("completed", "a") in machine.reports
    assert len(machine.jobs) == 1
    assert machine.process is not None
    machine.process.send_signal(signal.SIGTERM)
    assert machine.end() == 0


def test_two_jobs_that_name_one_folder_never_run_side_by_side_on_a_machine(machine: Machine) -> None:
    entry = {"bucket": "b", "prefix": "p/", "local_path": "data", "direction": "upload"}
    sync = {"after": [entry]}
    machine.job("a", WAIT, sync=sync)
    machine.start()
    machine.wait_busy()
    machine.requeues = True
    machine.job("b", "true", sync=sync)
    wait_until(lambda: ("released", "b") in machine.reports, "the other job to be handed back")
    assert {what for what, _ in machine.reports} == {"released"}
    (machine.folder / "go").touch()
    wait_until(lambda: {("completed", "a"), ("completed", "b")} <= {*machine.reports}, "both to complete")


def test_jobs_behind_one_whose_folder_is_taken_run_in_the_free_slots(machine: Machine) -> None:
    entry = {"bucket": "b", "prefix": "p/", "local_path": "data", "direction": "upload"}
    machine.requeues = True
    machine.job("a", WAIT, sync={"after": [entry]})
    machine.start()
    machine.wait_busy()
    machine.job("b", "true", sync={"after": [entry]})
    for name in "cde":
        machine.job(name, "true")
    wait_until(lambda: {("completed", name) for name in "cde"} <= {*machine.reports}, "the other jobs")
    assert ("completed", "b") not in machine.reports


def test_a_folder_that_somebody_else_has_put_in_the_place_of_a_slots_is_not_used(machine: Machine) -> None:
    shared, elsewhere = machine.folder / "shared", machine.folder / "elsewhere"
    shared.mkdir()
    elsewhere.mkdir()
    (shared / "kelpie-slot-1").symlink_to(elsewhere)
    machine.start(KELPIE_TEMP_DIR=str(shared))
    assert machine.end() == BAD_SETTINGS
    assert stat.S_IMODE((shared / "kelpie-slot-2").stat().st_mode) == 0o700


class Supervisor:
    """The slots of a machine in this process; each is the shell script ``script``."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
        monkeypatch.setattr(supervisor, "_RESTART_S", (0.01, 0.02))
        monkeypatch.setattr(supervisor, "program", lambda _: ["sh", "-c", f"cd {folder}; {script}"])
        nobody = settings(
            folder, slots=2, notices="none", deletion_cost=False, imds_url="http://127.0.0.1:1", gpus="none"
        )
        self.stop = Stop()
        self.code: list[int] = []
        self._slots = Slots(nobody, {}, self.stop)
        self._thread = threading.Thread(target=lambda: self.code.append(self._slots.run()), daemon=True)
        self._thread.start()

    def end(self) -> list[int]:
        self._thread.join(30)
        return self.code


def test_a_slot_that_cannot_be_started_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[Exception] = [
        BlockingIOError(11, "no processes"),
        OSError(24, "no files"),
        RuntimeError("no"),
    ]
    start = subprocess.Popen

    def popen(*args: Any, **kwargs: Any) -> Any:
        if failures:
            raise failures.pop()
        return start(*args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", popen)
    assert Supervisor(tmp_path, monkeypatch, "exit 0").end() == [STOPPED]
    assert failures == []


def test_an_end_that_one_slot_brings_about_and_the_first_of_an_operator_are_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    byte = "dd bs=1 count=1 2> errors"
    script = f"""case $0 in *'"slot": 1'*) exit {BAD_SETTINGS};; esac; {byte} > first; {byte} > second"""
    machine = Supervisor(tmp_path, monkeypatch, script)
    wait_until((tmp_path / "second").exists, "the other slot to be told")
    assert (tmp_path / "first").read_text() == "t"
    machine.stop.request()
    machine.stop.retire()
    assert machine.end() == [BAD_SETTINGS]
    assert (tmp_path / "second").read_text() == "r"


@pytest.mark.parametrize("journal", [True, False])
def test_what_a_slot_that_is_no_more_has_left_is_emptied_and_forgotten(tmp_path: Path, journal: bool) -> None:
    machine = settings(tmp_path, slots=2, sync=SyncSettings(temp_dir=tmp_path / "temp"))
    gone = settings_of_slot(machine, 3)
    folder, staged = gone.state_file.parent, gone.sync.temp_dir / f"{HIDDEN_PREFIX}job-0001-out"
    folder.mkdir()
    staged.mkdir(parents=True)
    (folder / ".kelpie-claims.json").write_text(json.dumps({"job-0001 1": ["/data"]}))
    gone.state_file.write_text(json.dumps({"jobs": [{"id": "job-1", "end": None}]}))
    if journal:
        (folder / ".kelpie-folders.json").write_text(json.dumps({"job-0001 1": []}))
    others = OtherSlots(settings_of_slot(machine, 1))
    assert not others.idle_for(0)
    recover_others(machine)
    assert others.idle_for(0)
    assert not (folder / ".kelpie-claims.json").exists()
    assert staged.exists() is not journal
