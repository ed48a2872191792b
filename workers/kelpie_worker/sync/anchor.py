"""A folder held open, so that what is written into it lands there whatever its path leads to meanwhile."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from kelpie_worker.sync.errors import SyncError


@contextlib.contextmanager
def anchored(folder: Path) -> Iterator[str]:
    """A path to the folder that leads to it, and nowhere else, inside the ``with`` block.

    SyncError when the path, or a part of it, is a symlink: it was swapped after ``folder`` was resolved.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        held = f"/proc/self/fd/{descriptor}"
        if os.readlink(held) != str(folder):  # noqa: PTH115  (plain strings: this is done for every file)
            raise SyncError(f"{folder} was replaced by a symlink meanwhile: nothing is stored through it")
        yield held
    finally:
        os.close(descriptor)
