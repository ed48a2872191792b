"""Disks of nodes: small file systems of their own where that is allowed, else folders."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from pathlib import Path

SIZE_MIB = 64
_CLONE_NEWNS = 0x00020000
_FILLER = ".filler"


def own_mounts() -> bool:
    """From now on what this process mounts vanishes with it; False: it may not mount. Before any thread."""
    if os.geteuid() != 0 or ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) != 0:
        return False
    return subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True, check=False).returncode == 0


class Disk:
    """The folder that a machine works in. ``mounted``: it can be full without harm to others."""

    def __init__(self, folder: Path, *, mounted: bool) -> None:
        self.folder = folder
        self.mounted = mounted
        folder.mkdir(parents=True)
        if mounted:
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "tmpfs", str(folder)], check=True
            )

    def fill(self) -> None:
        """Not a byte is left."""
        with (self.folder / _FILLER).open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(1 << 16)):
                pass

    def make_room(self) -> None:
        """Undo `fill`."""
        (self.folder / _FILLER).unlink(missing_ok=True)

    def remove(self) -> None:
        """The disk is gone with all that was on it."""
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)
        shutil.rmtree(self.folder, ignore_errors=True)
