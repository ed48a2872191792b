"""A limit on the memory of a job's command and of all that it starts, by a group of its own (cgroup v2).

See the kernel's cgroup-v2.rst. A group hands controllers to groups below it only while no process is in it,
so the processes of this container, the worker among them, move to a group beside those of the commands. Where
others share the group, where it is not ours to write, or where there is no cgroup v2, there is no limit.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from pathlib import Path

import structlog

from kelpie.errors import StartupError
from kelpie_worker.settings import Settings

MiB = 1 << 20
_WORKER_GROUP = "kelpie-worker"
_COMMAND_GROUP = "kelpie-command-"
_MAX_MOVES = 5
_ROOT = Path("/")

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


class CommandGroup:
    """The group of one command. Whoever writes 0 to :attr:`processes` joins it."""

    def __init__(self, path: Path, limit_bytes: int) -> None:
        """Make it. OSError."""
        self._path = path
        self.processes = path / "cgroup.procs"
        self.events = path / "memory.events"
        path.mkdir()
        try:
            (path / "memory.max").write_text(str(limit_bytes))
            with contextlib.suppress(OSError):  # a kernel without swap: else the limit would only move memory
                (path / "memory.swap.max").write_text("0")
        except OSError:
            self.end()
            raise

    def end(self) -> None:
        """Delete it: nothing is alive in it any more."""
        with contextlib.suppress(OSError):
            self._path.rmdir()


class MemoryLimit:
    """Makes groups below one that may hand out the memory controller."""

    def __init__(self, limit_bytes: int, *, root: Path = _ROOT) -> None:
        """Prepare this process's own group for groups below it. OSError; ValueError with what is missing."""
        self._limit_bytes = limit_bytes
        self._numbers = itertools.count(1)
        self._base = _base(root)
        self.new_group().end()  # what fails here would fail for every job

    @classmethod
    def of(cls, settings: Settings, *, root: Path = _ROOT) -> MemoryLimit | None:
        """The limit that the settings ask for. StartupError: they demand it, and it cannot be had."""
        if not settings.memory_limit_mib:
            return None
        try:
            return cls(settings.memory_limit_mib * MiB, root=root)
        except (OSError, ValueError) as error:
            wanted = f"{settings.memory_limit_mib} MiB (KELPIE_MEMORY_LIMIT_MIB)"
            why = f"commands cannot be limited to {wanted}: {error}"
            if settings.memory_limit_required:
                raise StartupError(f"{why}; KELPIE_MEMORY_LIMIT_REQUIRED=false runs them without") from None
            _log.warning("commands run without a limit on their memory", reason=why)
            return None

    def new_group(self) -> CommandGroup:
        """A group for one command. OSError."""
        name = f"{_COMMAND_GROUP}{os.getpid()}-{next(self._numbers)}"
        return CommandGroup(self._base / name, self._limit_bytes)


def _base(root: Path) -> Path:
    """The group that groups of commands are made in."""
    base = _own_group(root)
    if (
        base.name == _WORKER_GROUP
    ):  # an earlier worker of this container, or the one that started this, moved us
        base = base.parent
    if "memory" not in (base / "cgroup.controllers").read_text().split():
        raise ValueError(f"{base} has no memory controller")
    if "memory" not in (base / "cgroup.subtree_control").read_text().split():
        _hand_out_memory(base, root)
    for left in base.glob(f"{_COMMAND_GROUP}*"):  # of workers that were killed; those in use do not go
        if not _is_of_another(left, root):
            with contextlib.suppress(OSError):
                left.rmdir()
    return base


def _is_of_another(group: Path, root: Path) -> bool:
    """Whether a worker that lives, another slot maybe, has made it: no command may have joined it yet."""
    pid = group.name.removeprefix(_COMMAND_GROUP).partition("-")[0]
    return pid != str(os.getpid()) and (root / "proc" / pid).exists()


def _hand_out_memory(base: Path, root: Path) -> None:
    """Move the processes of the group aside only when they are in the way; again when others have come."""
    for moves_left in reversed(range(_MAX_MOVES + 1)):
        try:
            _enable(base)
        except OSError as error:
            if error.errno != errno.EBUSY or not moves_left:
                raise
            _move_all(base, root)
        else:
            return


def _enable(base: Path) -> None:
    (base / "cgroup.subtree_control").write_text("+memory")


def _own_group(root: Path) -> Path:
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            number, _, path = line.split(":", 2)
            mount = root / "sys/fs/cgroup"
            # in a container mostly what is mounted, whatever it is called outside
            for group in (mount / path.strip("/"), mount) if number == "0" else ():
                if (group / "cgroup.controllers").is_file():
                    return group
    raise ValueError("the kernel offers no cgroup v2 here")


def _move_all(base: Path, root: Path) -> None:
    """Move the processes of the group into one below it, if all of them are ours."""
    if not (base / "cgroup.type").exists():
        raise ValueError(f"{base} is the root of all groups: the machine's processes stay there")
    found = [int(line) for line in (base / "cgroup.procs").read_text().split()]
    foreign = [pid for pid in found if pid not in _lineage(root)]
    if foreign and 1 not in found:  # with process 1 in it, the group is the container's, and so are we
        raise ValueError(f"other processes share {base} ({len(foreign)} of them)")
    leaf = base / _WORKER_GROUP
    leaf.mkdir(exist_ok=True)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            (leaf / "cgroup.procs").write_text(str(pid))


def _lineage(root: Path) -> set[int]:
    """This process and those that it descends from."""
    pid, found = os.getpid(), set[int]()
    while pid > 0 and pid not in found:
        found.add(pid)
        try:
            stat = (root / "proc" / str(pid) / "stat").read_text(errors="replace")
            pid = int(stat.rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            break
    return found
