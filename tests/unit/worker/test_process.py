from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from kelpie_worker.process import Command, CommandNotStartedError
from tests.waiting import wait_until

NEVER = threading.Event()


def start(*argv: str, env: dict[str, str] | None = None) -> Command:
    return Command(argv, {"PATH": os.environ["PATH"]} if env is None else env, on_exit=lambda: None)


def shell(script: str, **env: str) -> Command:
    return start("sh", "-c", script, env={"PATH": os.environ["PATH"], **env})


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("code", [0, 1, 3, 255])
def test_an_exit_code_is_told_as_it_is(code: int) -> None:
    end = shell(f"exit {code}").reap()
    assert (end.code, end.signal, end.reason) == (code, None, f"exit code {code}")


@pytest.mark.parametrize(("name", "number"), [("SIGKILL", 9), ("SIGSEGV", 11)])
def test_death_by_a_signal_is_no_exit_code(name: str, number: int) -> None:
    end = shell(f"kill -{number} $$").reap()
    assert (end.code, end.signal, end.reason) == (128 + number, number, f"killed by signal {number} ({name})")


def test_a_missing_command_is_127_with_a_reason() -> None:
    with pytest.raises(CommandNotStartedError, match="command not found: 'no-such-command'") as caught:
        start("no-such-command")
    assert caught.value.exit.code == 127
    assert "not found" in caught.value.exit.reason


def test_what_cannot_be_executed_is_126(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no program")
    with pytest.raises(CommandNotStartedError, match="Permission denied") as caught:
        start(str(tmp_path / "data"))
    assert caught.value.exit.code == 126


@pytest.mark.parametrize(
    ("argv", "env"), [(("echo", "a\0b"), {}), (("echo",), {"A=B": "c"}), (("echo",), {"A": "b\0c"})]
)
def test_what_no_kernel_takes_does_not_start(argv: tuple[str, ...], env: dict[str, str]) -> None:
    with pytest.raises(CommandNotStartedError, match="cannot be started"):
        start(*argv, env={"PATH": os.environ["PATH"], **env})


def test_the_command_is_looked_up_in_the_jobs_own_path(tmp_path: Path) -> None:
    program = tmp_path / "mine"
    program.write_text("#!/bin/sh\nexit 7\n")
    program.chmod(0o755)
    assert start("mine", env={"PATH": str(tmp_path)}).reap().code == 7


def test_the_environment_is_the_jobs_alone_and_any_byte_passes(tmp_path: Path) -> None:
    out = tmp_path / "env"
    odd = os.fsdecode(b"\xff\xfe caf\xc3\xa9")
    start(
        "/usr/bin/env",
        "sh",
        "-c",
        f"env > {out}",
        env={"PATH": os.environ["PATH"], "ODD": odd, "LD_LIBRARY_PATH": "/nowhere"},
    ).reap()
    lines = out.read_bytes().splitlines()
    assert b"ODD=\xff\xfe caf\xc3\xa9" in lines
    assert b"LD_LIBRARY_PATH=/nowhere" in lines
    assert {line.split(b"=")[0] for line in lines} <= {
        b"ODD",
        b"LD_LIBRARY_PATH",
        b"PATH",
        b"PWD",
        b"SHLVL",
        b"_",
        b"OLDPWD",
    }


def test_a_poisoned_python_environment_meets_the_command_alone() -> None:
    assert shell("exit 5", PYTHONHOME="/nowhere", PYTHONPATH="/nowhere").reap().code == 5


def test_stdin_is_empty_and_output_passes_through(capfd: pytest.CaptureFixture[str]) -> None:
    assert shell("cat; echo out; echo err >&2").reap().code == 0
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("out\n", "err\n")


def test_the_command_leads_a_session_of_its_own() -> None:
    command = start("sleep", "60")
    assert os.getsid(command.pid) == os.getpgid(command.pid) == command.pid
    command.end(10, NEVER)
    command.reap()


def test_the_command_starts_with_default_signals(tmp_path: Path) -> None:
    out = tmp_path / "status"
    start("sh", "-c", f"grep -E 'Sig(Blk|Ign)' /proc/self/status > {out}").reap()
    inner = 0b11 << 31  # 32 and 33 are the C library's own, and come with how this test was started
    masks = [int(line.split()[1], 16) & ~inner for line in out.read_text().splitlines()]
    assert masks == [0, 0]


def test_no_file_of_the_worker_reaches_the_command(capfd: pytest.CaptureFixture[str]) -> None:
    start("sh", "-c", "ls /proc/$$/fd; exit 0").reap()
    assert set(capfd.readouterr().out.split()) == {"0", "1", "2"}


def test_sigterm_comes_first_and_its_grace_is_used(tmp_path: Path) -> None:
    saved = tmp_path / "checkpoint"
    command = shell(
        f"trap 'echo saved > {saved}; exit 0' TERM; touch {tmp_path}/up; while :; do sleep 0.02; done"
    )
    wait_until((tmp_path / "up").exists, "the command to be up")
    assert command.end(30, NEVER) is True
    assert command.reap().code == 0
    assert saved.read_text() == "saved\n"


def test_a_child_gets_the_grace_too_when_its_shell_dies_first(tmp_path: Path) -> None:
    child = (
        "import signal, sys, time, pathlib\n"
        f"p = pathlib.Path({str(tmp_path)!r})\n"
        "def save(*_):\n    time.sleep(0.3); (p / 'checkpoint').write_text('saved'); sys.exit()\n"
        "signal.signal(signal.SIGTERM, save); (p / 'up').touch()\nwhile True: time.sleep(1)\n"
    )
    command = start("sh", "-c", '"$0" -c "$1"; exit $?', sys.executable, child)
    wait_until((tmp_path / "up").exists, "the child to be up")
    command.end(30, NEVER)
    command.reap()
    assert (tmp_path / "checkpoint").read_text() == "saved"


def test_a_command_that_ignores_sigterm_is_killed_after_its_grace(tmp_path: Path) -> None:
    command = shell(f"trap '' TERM; touch {tmp_path}/up; while :; do sleep 0.02; done")
    wait_until((tmp_path / "up").exists, "the command to be up")
    assert command.end(0.2, NEVER) is True
    assert command.reap().signal == signal.SIGKILL


def test_hurry_ends_the_grace(tmp_path: Path) -> None:
    command = shell(f"trap '' TERM; touch {tmp_path}/up; while :; do sleep 0.02; done")
    wait_until((tmp_path / "up").exists, "the command to be up")
    hurry = threading.Event()
    hurry.set()
    command.end(3600, hurry)
    assert command.reap().signal == signal.SIGKILL


def test_the_whole_group_ends_with_the_command(tmp_path: Path) -> None:
    command = shell(f"(trap '' TERM; while :; do sleep 0.02; done) & echo $! > {tmp_path}/child; sleep 60")
    child = int(
        wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text(), "the child")
    )
    command.end(0.2, NEVER)
    command.reap()
    wait_until(lambda: not alive(child), "the child to be gone")


def test_what_an_ended_command_left_behind_ends_too(tmp_path: Path) -> None:
    command = shell(f"sleep 60 & echo $! > {tmp_path}/child; exit 0")
    wait_until(command.exited.is_set, "the command to end")
    assert command.end(10, NEVER) is False  # nobody told the command itself to end: its exit code counts
    assert command.reap().code == 0
    child = int((tmp_path / "child").read_text())
    wait_until(lambda: not alive(child), "the child to be gone")


def test_the_command_dies_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom kelpie_worker.process import Command\n"
        "command = Command(['sleep', '600'], {'PATH': os.environ['PATH']}, on_exit=lambda: None)\n"
        "print(command.pid, flush=True)\ncommand.reap()\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    command = psutil.Process(int(worker.stdout.readline()))
    assert command.name() == "sleep"
    worker.kill()
    worker.wait()
    worker.stdout.close()
    wait_until(lambda: not alive(command.pid), "the command to die with its worker")


def test_on_exit_is_called_when_the_command_has_ended() -> None:
    called = threading.Event()
    command: Any = Command(["true"], {"PATH": os.environ["PATH"]}, on_exit=called.set)
    assert called.wait(30)
    assert command.reap().code == 0


@pytest.mark.parametrize("name", ["guard-", "watch-"])
def test_without_a_thread_to_watch_it_nothing_of_a_command_is_left(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def no_thread(thread: threading.Thread) -> None:
        if thread.name.startswith(name):
            raise RuntimeError("can't start new thread")
        start_thread(thread)

    start_thread = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    me = psutil.Process()
    before, open_before = set(me.children()), me.num_fds()
    with pytest.raises(RuntimeError, match="new thread"):
        start("sleep", "600")
    assert set(me.children()) == before
    assert me.num_fds() == open_before
