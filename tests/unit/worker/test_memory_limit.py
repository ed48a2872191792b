"""The memory of commands is limited where that is allowed; elsewhere it is said, or refused."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kelpie.errors import StartupError
from kelpie_worker.memory_limit import CommandGroup, MemoryLimit
from kelpie_worker.process import Command, CommandNotStartedError
from tests.unit.worker.doubles import settings


def machine(root: Path, *, controllers: str = "cpu memory", control: str = "", processes: str = "") -> Path:
    """A tree like /proc and /sys/fs/cgroup, as files; the group of this process."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("0::/box\n")
    (root / f"proc/{os.getpid()}").mkdir()
    (root / f"proc/{os.getpid()}/stat").write_text(f"{os.getpid()} (a) b) S 77 77")
    base = root / "sys/fs/cgroup/box"
    base.mkdir(parents=True)
    (base / "cgroup.controllers").write_text(controllers)
    (base / "cgroup.subtree_control").write_text(control)
    (base / "cgroup.procs").write_text(processes)
    return base


class Files(CommandGroup):
    """A group of plain files: what the kernel deletes with its folder, a test does."""

    def end(self) -> None:
        for file in self._path.iterdir():
            file.unlink()
        super().end()


@pytest.fixture(autouse=True)
def of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kelpie_worker.memory_limit.CommandGroup", Files)


@pytest.mark.parametrize(
    "processes", [f"{os.getpid()}\n77\n", f"1\n5\n{os.getpid()}\n"], ids=["leads", "is led"]
)
def test_the_container_moves_aside_and_each_command_gets_a_group_with_the_limit(
    tmp_path: Path, processes: str
) -> None:
    base = machine(tmp_path, processes=processes)
    limit = MemoryLimit.of(settings(tmp_path, memory_limit_mib=64), root=tmp_path)
    assert limit is not None
    assert (base / "cgroup.subtree_control").read_text() == "+memory"
    assert (base / "kelpie-worker/cgroup.procs").read_text() == processes.split()[-1]  # the last that moved
    group = limit.new_group()
    assert (group.events.parent / "memory.max").read_text() == str(64 << 20)
    assert (group.events.parent / "memory.swap.max").read_text() == "0"
    group.end()
    assert not group.events.parent.exists()


@pytest.mark.parametrize(
    ("box", "why"),
    [
        ({"controllers": "cpu"}, "has no memory controller"),
        ({"processes": "2\n3\n"}, "other processes share"),
        (None, "no cgroup v2 here"),
    ],
)
def test_where_it_is_not_allowed_it_is_said_once_or_refused_when_it_is_demanded(
    tmp_path: Path, box: dict[str, str] | None, why: str
) -> None:
    if box is not None:
        machine(tmp_path, **box)
    with capture_logs() as logs:
        assert MemoryLimit.of(settings(tmp_path, memory_limit_mib=64), root=tmp_path) is None
    assert [line["log_level"] for line in logs] == ["warning"]
    assert why in logs[0]["reason"]
    demanded = settings(tmp_path, memory_limit_mib=64, memory_limit_required=True)
    with pytest.raises(StartupError, match=f"KELPIE_MEMORY_LIMIT_MIB.*{why}"):
        MemoryLimit.of(demanded, root=tmp_path)


def test_a_command_joins_its_group_before_it_begins_and_a_kill_there_is_told_apart(tmp_path: Path) -> None:
    events = f"echo 'oom_kill 1' > {tmp_path}/group/memory.events"
    group = Files(tmp_path / "group", 1 << 20)
    group.events.write_text("oom_kill 0\n")
    joined = f'test "$(cat {group.processes})" = 0 || exit 3; {events}; kill -9 $$'
    command = Command(["sh", "-c", joined], {"PATH": os.environ["PATH"]}, lambda: None, group=group)
    command.exited.wait(30)
    command.end(0, threading.Event())
    exit_ = command.reap()
    assert (exit_.signal, exit_.out_of_memory) == (9, True)
    assert not (tmp_path / "group").exists()


def test_a_command_that_cannot_join_does_not_begin(tmp_path: Path) -> None:
    group = Files(tmp_path / "group", 1 << 20)
    group.processes.mkdir()
    group.processes = group.processes / "not" / "there"
    (tmp_path / "group" / "cgroup.procs").rmdir()
    with pytest.raises(CommandNotStartedError, match="its memory cannot be limited"):
        Command(["true"], {"PATH": os.environ["PATH"]}, lambda: None, group=group)
