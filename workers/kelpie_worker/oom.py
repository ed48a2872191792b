"""Whether the kernel has killed a process of this container for lack of memory."""

from __future__ import annotations

import contextlib
from pathlib import Path

_ROOT = Path("/")
_OF_MACHINE = "vmstat"


class OomCounter:
    """Counts kills from its making on, in the memory cgroup that this process is in.

    See "memory.events" in the kernel's cgroup-v2.rst; version 1 tells the same in ``memory.oom_control``.
    Where neither can be read, ``/proc/vmstat`` tells of the whole machine. A command's death by SIGKILL alone
    proves nothing: anybody may send that.
    """

    def __init__(self, root: Path | None = None, *, events: Path | None = None) -> None:
        """``events``: the ``memory.events`` of the group to count in, rather than that of this process."""
        self._source = events or _source(_ROOT if root is None else root)
        self._before = self._count()

    def rose(self, *, of_machine: bool) -> bool:
        """Whether there was a kill since this object was made.

        ``of_machine``: one anywhere on the machine will do, when nothing closer can be read.
        """
        if self._source is not None and self._source.name == _OF_MACHINE and not of_machine:
            return False
        return self._count() > self._before

    def _count(self) -> int:
        if self._source is not None:
            with contextlib.suppress(OSError, ValueError):
                for line in self._source.read_text().splitlines():
                    name, _, value = line.partition(" ")
                    if name == "oom_kill":
                        return int(value)
        return 0


def _source(root: Path) -> Path | None:
    """The first file that counts kills; each process is in one group of each hierarchy."""
    groups: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                groups[controller] = path.strip("/")
    mount = root / "sys/fs/cgroup"
    candidates = [
        # in a container the group of this process is mostly what is mounted, whatever it is called outside
        *(mount / path / "memory.events" for path in (groups.get("", ""), "")),
        *(mount / "memory" / path / "memory.oom_control" for path in (groups.get("memory", ""), "")),
        root / "proc" / _OF_MACHINE,
    ]
    for candidate in candidates:
        with contextlib.suppress(OSError):
            if any(line.startswith("oom_kill ") for line in candidate.read_text().splitlines()):
                return candidate
    return None
