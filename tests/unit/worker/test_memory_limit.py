"""The memory of commands is limited where that is allowed; elsewhere it is said, or refused."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from kelpie.errors import StartupError
from kelpie_worker import memory_limit
from kelpie_worker.memory_limit import CommandGroup, MemoryLimit
from kelpie_worker.process import Command, CommandNotStartedError
from tests.unit.worker.doubles import settings


def machine(
    root: Path,
    *,
    controllers: str = "cpu memory",
    control: str = "",
    processes: str = "",
    kind: str | None = "domain",
) -> Path:
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
    if kind is not None:
        (base / "cgroup.type").write_text(kind)
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
    enable = memory_limit._enable

    def as_the_kernel_does(base: Path) -> None:
        if (base / "cgroup.procs").read_text() and not (base / "kelpie-worker/cgroup.procs").exists():
            raise OSError(errno.EBUSY, "busy")
        enable(base)

    monkeypatch.setattr(memory_limit, "_enable", as_the_kernel_does)


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
        ({"processes": "1\n", "kind": None}, "the root of all groups"),
        (None, "no cgroup v2 here"),
    ],
)
def test_where_it_is_not_allowed_it_is_said_once_or_refused_when_it_is_demanded(
    tmp_path: Path, box: dict[str, Any] | None, why: str
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


def test_nothing_is_moved_that_is_not_in_the_way(tmp_path: Path) -> None:
    base = machine(tmp_path)
    assert MemoryLimit.of(settings(tmp_path, memory_limit_mib=64), root=tmp_path) is not None
    assert (base / "cgroup.subtree_control").read_text() == "+memory"
    assert not (base / "kelpie-worker").exists()


def test_what_came_meanwhile_is_moved_too_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(tmp_path, processes="1\n")
    tries: list[Path] = []

    def busy(base: Path) -> None:
        tries.append(base)
        if len(tries) != 3:
            raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(memory_limit, "_enable", busy)
    wanted = settings(tmp_path, memory_limit_mib=64, memory_limit_required=True)
    assert MemoryLimit.of(wanted, root=tmp_path) is not None
    assert len(tries) == 3
    with pytest.raises(StartupError, match="busy"):
        MemoryLimit.of(wanted, root=tmp_path)


def test_a_group_that_another_slot_has_just_made_stays_and_that_of_a_dead_one_goes(tmp_path: Path) -> None:
    base = machine(tmp_path, control="memory")
    (tmp_path / "proc/88").mkdir()
    groups = {name: base / f"kelpie-command-{name}-1" for name in ("88", "99", str(os.getpid()))}
    for group in groups.values():
        group.mkdir()
    assert MemoryLimit.of(settings(tmp_path, memory_limit_mib=64), root=tmp_path) is not None
    assert [name for name, group in groups.items() if group.exists()] == ["88"]


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
