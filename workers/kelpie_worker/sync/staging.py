"""Where final outputs wait for their upload, so that the next job can have the folders at once."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

import structlog

from kelpie_worker.sync.errors import SyncError
from kelpie_worker.sync.folders import HIDDEN_PREFIX, empty_folder, outermost, protect, staged_in, unprotect
from kelpie_worker.sync.journal import STAGED_ID_CHARS
from kelpie_worker.sync.tree import Tree

log = structlog.get_logger(__name__)


class Staging:
    """The temporary copies of one job's outputs.

    A folder is renamed into a hidden folder beside it; where that is impossible (a mount point, a parent that
    is not writable) its content moves to the temporary folder: renamed when that is the same file system,
    else copied.
    """

    def __init__(self, job_id: str, temp_dir: Path) -> None:
        self._name = f"{HIDDEN_PREFIX}{job_id[:STAGED_ID_CHARS]}-"
        self._temp_dir = temp_dir
        self._holders: list[Path] = []
        self._moved: dict[Path, Path] = {}

    def take(self, folders: Iterable[Path]) -> None:
        """Move the content of the folders away; they stay, empty. SyncError when one cannot be moved."""
        for folder in outermost(folders):
            if folder.is_symlink() or folder.parent.resolve() != folder.parent:
                raise SyncError(f"{folder} was replaced by a symlink: its outputs are not inside it")
            try:
                if not folder.is_dir() or not any(folder.iterdir()):
                    continue
                self._moved[folder] = self._move(folder)
                _relink(self._moved[folder], folder)
            except OSError as error:
                raise SyncError(
                    f"the outputs in {folder} cannot be set aside for their upload: {error}"
                ) from None

    def tree(self, folder: Path) -> Tree | None:
        """Where the content of ``folder`` (taken, or in a taken one) is now; None when it was empty."""
        for taken, moved in self._moved.items():
            if folder.is_relative_to(taken):
                return Tree(moved / folder.relative_to(taken), written_as=folder)
        return None

    def discard(self) -> None:
        """Delete the copies."""
        self._moved.clear()
        while self._holders:
            holder = self._holders.pop()
            unprotect(holder)
            try:
                shutil.rmtree(holder)
            except FileNotFoundError:
                pass
            except OSError as error:
                log.warning("a temporary copy could not be deleted", path=str(holder), error=str(error))

    def _holder(self, parent: Path) -> Path:
        holder = Path(tempfile.mkdtemp(prefix=self._name, dir=parent))
        self._holders.append(holder)
        protect(holder)
        return holder

    def _move(self, folder: Path) -> Path:
        if staged_in(folder):  # an earlier job's copy: it must stay where it is
            moved = self._holder(folder.parent) / folder.name
            moved.mkdir()
            _move_content(folder, moved)
            return moved
        try:
            moved = self._holder(folder.parent) / folder.name
            status = folder.stat()
            folder.rename(moved)
        except OSError:
            moved = self._holder(self._temp_dir) / folder.name
            moved.mkdir()
            _move_content(folder, moved)
            return moved
        folder.mkdir()
        folder.chmod(stat.S_IMODE(status.st_mode))
        if (os.geteuid(), os.getegid()) != (status.st_uid, status.st_gid):
            try:
                os.chown(folder, status.st_uid, status.st_gid)
            except PermissionError:  # then the mode decides who may write, as for the folder that was there
                log.warning("the owner of a folder could not be restored", path=str(folder))
        return moved


def _relink(moved: Path, folder: Path) -> None:
    """Absolute symlinks into the folder lead into its copy from now on."""
    for place, folders, files in os.walk(moved):
        for name in (*folders, *files):
            link = Path(place, name)
            if link.is_symlink() and (target := link.readlink()).is_relative_to(folder):
                link.unlink()
                link.symlink_to(moved / target.relative_to(folder))


def _move_content(folder: Path, target: Path) -> None:
    """Copy first, empty last: a copy that fails half-way leaves the outputs where they are."""
    staged = staged_in(folder)
    children = [child for child in folder.iterdir() if child not in staged]
    for child in [one for one in children if any(copy.is_relative_to(one) for copy in staged)]:
        children.remove(child)
        (target / child.name).mkdir()
        _move_content(child, target / child.name)
    if children and folder.stat().st_dev == target.stat().st_dev:
        for child in children:
            child.rename(target / child.name)
        return
    for child in children:
        if child.is_symlink():
            (target / child.name).symlink_to(child.readlink())
        elif child.is_dir():
            shutil.copytree(child, target / child.name, symlinks=True, copy_function=_copy, ignore=_special)
        elif child.is_file():
            _copy(str(child), str(target / child.name))
    empty_folder(folder)


def _copy(source: str, target: str) -> None:
    shutil.copy2(source, target, follow_symlinks=False)


def _special(place: str, names: list[str]) -> list[str]:
    """Pipes, sockets and devices: nothing that could be uploaded."""
    special = []
    for name in names:
        mode = os.lstat(os.path.join(place, name)).st_mode  # noqa: PTH118  (shutil hands over plain strings)
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            special.append(name)
    return special
