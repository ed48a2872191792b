"""What a command leaves behind, whatever it does and whoever dies."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from kelpie_worker import guardian_process
from kelpie_worker.process import Command
from tests.unit.worker.test_process import NEVER, alive, shell
from tests.waiting import wait_until

DAEMON = (
    "import os, pathlib, signal, sys, time\n"
    "folder = pathlib.Path(sys.argv[1])\n"
    "if os.fork():\n    os._exit(0)\n"
    "os.setsid()\n"
    "if os.fork():\n    os._exit(0)\n"
    "def told(*_):\n    (folder / 'told').touch()\n"
    "signal.signal(signal.SIGTERM, told)\n"
    "(folder / 'daemon.tmp').write_text(str(os.getpid()))\n"
    "(folder / 'daemon.tmp').rename(folder / 'daemon')\n"
    "while True:\n    (folder / 'written').write_text(str(time.time())); time.sleep(0.01)\n"
)
"""Leaves its group, its session and its parents, ignores SIGTERM, and writes for ever."""


@pytest.fixture
def daemonize(tmp_path: Path) -> str:
    script = tmp_path / "daemon.py"
    script.write_text(DAEMON)
    return f"{sys.executable} {script} {tmp_path}"


def daemon_of(folder: Path) -> int:
    wait_until((folder / "daemon").exists, "the daemon to be up")
    return int((folder / "daemon").read_text())


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that adopts orphans, runs the command in its first line of input, and waits to be killed."""
    script = (
        "import os, sys\nfrom kelpie_worker import orphans\nfrom kelpie_worker.process import Command\n"
        "orphans.adopt(0.05)\n"
        "command = Command(['sh', '-c', sys.stdin.readline()], dict(os.environ), on_exit=lambda: None)\n"
        "print(command.pid, flush=True)\nprint(command.reap(), flush=True)\nsys.stdin.readline()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate()


def run(worker: subprocess.Popen[str], script: str) -> int:
    """The pid of the command."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(script + "\n")
    worker.stdin.flush()
    return int(worker.stdout.readline())


def test_a_daemon_that_left_its_session_ends_with_its_command(tmp_path: Path, daemonize: str) -> None:
    command = shell(f"{daemonize}; sleep 60")
    daemon = daemon_of(tmp_path)
    assert os.getsid(daemon) != command.pid
    assert command.end(0.3, NEVER) is True
    assert not alive(daemon)  # when end returns, nothing can write any more
    assert (tmp_path / "told").exists()  # it had its grace
    command.reap()


def test_an_exit_of_0_counts_though_a_child_still_writes_and_that_is_ended_first(
    tmp_path: Path, daemonize: str
) -> None:
    command = shell(f"{daemonize}; while [ ! -e {tmp_path}/written ]; do sleep 0.02; done; exit 0")
    wait_until(command.exited.is_set, "the command to end")
    assert alive(daemon_of(tmp_path))
    assert command.end(0.1, NEVER) is False
    assert not alive(daemon_of(tmp_path))
    assert command.reap().code == 0


def test_a_stopped_command_can_use_its_grace(tmp_path: Path) -> None:
    command = shell(f"trap 'touch {tmp_path}/saved; exit 0' TERM; kill -STOP $$; sleep 60")
    wait_until(lambda: psutil.Process(command.pid).status() == psutil.STATUS_STOPPED, "the command to stop")
    command.end(30, NEVER)
    command.reap()
    assert (tmp_path / "saved").exists()


def test_a_command_that_forks_without_end_is_killed_whole(tmp_path: Path) -> None:
    command = shell(
        f"trap '' TERM; touch {tmp_path}/up; while :; do (sleep 0.05; setsid sleep 30) & sleep 0.02; done"
    )
    wait_until((tmp_path / "up").exists, "the command to be up")
    guardian = psutil.Process(command.pid).parent()
    assert guardian is not None
    wait_until(lambda: len(guardian.children(recursive=True)) > 5, "some children")
    family = guardian.children(recursive=True)
    command.end(0, NEVER)
    command.reap()
    assert [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []


def test_everything_dies_with_a_worker_that_is_killed(
    worker: subprocess.Popen[str], tmp_path: Path, daemonize: str
) -> None:
    command = run(worker, f"trap '' TERM; {daemonize}; while :; do sleep 0.02; done")
    guardian = psutil.Process(command).parent()
    assert guardian is not None
    daemon = daemon_of(tmp_path)
    worker.kill()
    wait_until(lambda: not alive(daemon), "the daemon to die")
    wait_until(lambda: not (alive(command) or alive(guardian.pid)), "the command and its guardian to end")


def test_everything_dies_with_a_guardian_that_is_killed(
    worker: subprocess.Popen[str], tmp_path: Path, daemonize: str
) -> None:
    command = run(worker, f"{daemonize}; while :; do sleep 0.02; done")
    daemon = daemon_of(tmp_path)
    guardian = psutil.Process(command).parent()
    assert guardian is not None
    guardian.kill()
    assert worker.stdout is not None
    assert "guardian_killed=True" in worker.stdout.readline()
    assert not alive(daemon)


def test_orphans_of_a_worker_are_reaped_as_pid_1_must(worker: subprocess.Popen[str]) -> None:
    command = run(worker, "sleep 60")
    guardian = psutil.Process(command).parent()
    assert guardian is not None
    guardian.kill()  # the command becomes a child of the worker, which never started it
    assert worker.stdout is not None
    worker.stdout.readline()
    me = psutil.Process(worker.pid)
    wait_until(lambda: me.children() == [], "no zombie is left")


def test_supervisors_that_signal_every_process_do_not_end_the_guardian(tmp_path: Path) -> None:
    command = shell(f"trap '' TERM INT HUP; touch {tmp_path}/up; while :; do sleep 0.02; done")
    wait_until((tmp_path / "up").exists, "the command to be up")
    guardian = psutil.Process(command.pid).parent()
    assert guardian is not None
    for number in (1, 2, 15):
        os.kill(guardian.pid, number)
    assert command.end(0.1, threading.Event()) is True
    assert command.reap().signal == 9


def test_a_guardian_that_its_command_stops_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guardian_process, "_LOOK_S", 0.05)
    command = shell("kill -STOP $PPID; exit 5")
    wait_until(command.exited.is_set, "the end to be told")
    assert command.end(0, NEVER) is False
    assert command.reap().code == 5


def test_a_stopped_guardian_still_ends_what_a_killed_worker_leaves(worker: subprocess.Popen[str]) -> None:
    command = run(worker, "sleep 60")
    guardian = psutil.Process(command).parent()
    assert guardian is not None
    guardian.suspend()
    worker.kill()
    wait_until(lambda: not (alive(command) or alive(guardian.pid)), "both to end")


def test_a_guardian_that_is_stopped_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guardian_process, "_LOOK_S", 0.01)
    monkeypatch.setattr(guardian_process, "MAX_STOPS", 3)
    command = shell("while :; do kill -STOP $PPID; done")
    wait_until(command.exited.is_set, "the command to be ended")
    command.end(0, NEVER)
    assert command.reap().guardian_killed
    wait_until(lambda: not alive(command.pid), "the kernel to kill the command")


def test_stops_of_a_guardian_that_are_far_apart_are_not_counted_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(guardian_process, "_LOOK_S", 0.01)
    monkeypatch.setattr(guardian_process, "MAX_STOPS", 1)
    monkeypatch.setattr(guardian_process, "QUIET_S", 0.0)
    command = shell(
        "for n in 1 2 3; do kill -STOP $PPID; "
        "while grep -q '^State:.T' /proc/$PPID/status; do sleep 0.02; done; done; exit 5"
    )
    assert command.reap().code == 5


THIEF = """
import ctypes, os, signal, stat
system_call = ctypes.CDLL(None).syscall
guardian = os.pidfd_open(os.getppid())
numbers = map(int, os.listdir(f"/proc/{os.getppid()}/fd"))
files = [system_call(438, guardian, number, 0) for number in numbers]  # pidfd_getfd
taken = [file for file in files if file >= 0 and stat.S_ISSOCK(os.fstat(file).st_mode)]
assert taken
"""
"""A command that may look into other processes takes all sockets of its guardian, also the one by which that
speaks to the worker: ``taken``."""

may_take_files = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: nobody else can do this wherever ptrace is restricted"
)


@may_take_files
@pytest.mark.parametrize(
    "junk",
    [
        b"junk\n",
        b"\xff\n",
        b"[" * 4000 + b"\n",
        b"x" * 8192,
        b"7\n",
        b'{"exit": "0", "told": false}\n',
        b'{"told": false}\n',
        b'{"exit": 0, "told": {}}\n',
    ],
    ids=str,
)
def test_a_command_that_speaks_for_its_guardian_is_ended_with_all_of_it(
    tmp_path: Path, daemonize: str, junk: bytes
) -> None:
    (tmp_path / "thief.py").write_text(
        f"{THIEF}\nfor each in taken:\n    os.write(each, {junk!r})\nsignal.pause()\n"
    )
    command = shell(
        f"{daemonize}; while [ ! -e {tmp_path}/daemon ]; do sleep 0.02; done;"
        f" exec {sys.executable} {tmp_path}/thief.py"
    )
    assert command.exited.wait(60)
    assert command.reap().guardian_killed
    assert not alive(daemon_of(tmp_path))
    assert not alive(command.pid)


@may_take_files
def test_a_socket_that_outlives_its_guardian_keeps_no_job_alive(
    worker: subprocess.Popen[str], tmp_path: Path
) -> None:
    (tmp_path / "thief.py").write_text(
        f"{THIEF}\nif os.fork():\n    os.kill(os.getppid(), 9)\nos.setsid()\nsignal.pause()\n"
    )
    run(worker, f"exec {sys.executable} {tmp_path}/thief.py")
    assert worker.stdout is not None
    assert "guardian_killed=True" in worker.stdout.readline()


@pytest.mark.parametrize("word", ['{"exit": 0, "told": false}', "t"])
def test_no_command_can_speak_for_its_guardian_or_give_it_orders(tmp_path: Path, word: str) -> None:
    command = shell(
        f"for f in /proc/$PPID/fd/*; do case $f in */[12]) ;; *) echo '{word}' > $f;; esac; done; exit 5"
    )
    wait_until(command.exited.is_set, "the command to end")
    assert command.end(0, NEVER) is False
    assert command.reap().code == 5


def test_the_guardian_ends_with_its_command(tmp_path: Path) -> None:
    command = Command(
        ["sh", "-c", f"echo $PPID > {tmp_path}/parent; exit 4"], dict(os.environ), on_exit=lambda: None
    )
    assert command.reap().code == 4
    wait_until(lambda: not alive(int((tmp_path / "parent").read_text())), "the guardian to end")
