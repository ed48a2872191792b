from __future__ import annotations

from pathlib import Path

import pytest

from kelpie_worker import oom
from kelpie_worker.process import Exit
from tests.unit.worker.test_process import shell

V2 = "0::/docker/abc\n"
V1 = "9:name=systemd:/\n4:memory:/docker/abc\n0::/\n"


def machine(root: Path, cgroup: str, **files: str) -> Path:
    """A tree like /proc and /sys/fs/cgroup: `vmstat` is in the former, `a__b` is a/b in the latter."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = root / "proc/vmstat" if name == "vmstat" else root / "sys/fs/cgroup" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


EVENTS = "low 0\nhigh 0\nmax 12\noom 1\noom_kill {}\noom_group_kill 0\n"


@pytest.mark.parametrize(
    ("cgroup", "file"),
    [
        (V2, "docker/abc/memory.events"),
        (V2, "memory.events"),  # in a container: a name of the outside, a mount of the inside
        (V1, "memory/docker/abc/memory.oom_control"),
        (V1, "memory/memory.oom_control"),
    ],
)
def test_a_kill_in_this_group_is_seen_whichever_version_the_kernel_has(
    tmp_path: Path, cgroup: str, file: str
) -> None:
    root = machine(tmp_path, cgroup, **{file.replace("/", "__"): EVENTS.format(3)}, vmstat="oom_kill 9\n")
    counter = oom.OomCounter(root)
    assert not counter.rose(of_machine=True)
    (root / "sys/fs/cgroup" / file).write_text(EVENTS.format(4))
    assert counter.rose(of_machine=False)


def test_a_kill_somewhere_on_the_machine_explains_only_a_death_by_sigkill(tmp_path: Path) -> None:
    root = machine(tmp_path, V2, vmstat="nr_free 1\noom_kill 9\n")
    counter = oom.OomCounter(root)
    (root / "proc/vmstat").write_text("nr_free 1\noom_kill 10\n")
    assert counter.rose(of_machine=True)
    assert not counter.rose(of_machine=False)


def test_without_any_counter_nothing_is_said(tmp_path: Path) -> None:
    assert not oom.OomCounter(tmp_path).rose(of_machine=True)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("kill -9 $$", "killed by signal 9 (SIGKILL): out of memory"),
        ("exit 137", "exit code 137; the kernel killed a process of it: out of memory"),
    ],
)
def test_a_command_that_the_kernel_kills_for_memory_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    root = machine(tmp_path, V2, **{"memory.events": EVENTS.format(0)})
    monkeypatch.setattr(oom, "_ROOT", root)
    events = root / "sys/fs/cgroup/memory.events"
    end = shell(f"sed -i 's/oom_kill 0/oom_kill 1/' {events}; {script}").reap()
    assert (end.out_of_memory, end.reason) == (True, reason)


def test_a_kill_that_the_kernel_did_not_do_is_no_lack_of_memory() -> None:
    assert shell("kill -9 $$").reap() == Exit(137, signal=9)
