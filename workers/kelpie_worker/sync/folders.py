"""Which local folders a job may name, and how they are emptied.

The checks run before anything of the attempt does: a folder that is emptied after the job must not be one
that anything else lives in.
"""

from __future__ import annotations

import contextlib
import pwd
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from kelpie_worker.sync.errors import SyncError

_SYSTEM_TREES = frozenset(
    Path("/", name)
    for name in ("bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "sys")
) | frozenset(Path("/usr", name) for name in ("bin", "include", "lib", "lib64", "libexec", "sbin", "share"))
"""Refused with everything in them."""
_SYSTEM_FOLDERS = (
    frozenset(Path("/", name) for name in ("home", "opt", "root", "run", "tmp", "usr", "var"))
    | frozenset(Path("/usr", name) for name in ("local", "src"))
    | frozenset(Path("/var", name) for name in ("cache", "lib", "log", "run", "spool", "tmp"))
)
"""Refused themselves; folders in them are fine."""
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  (folders in it are scratch space, unlike the rest of /dev)

HIDDEN_PREFIX = ".kelpie-"
"""Names that start so are ours (staged outputs, unfinished downloads) and are never uploaded."""


def job_folder(local_path: str, *, allowed_roots: Sequence[Path] = (), temp_dir: Path) -> Path:
    """The real, absolute folder that ``local_path`` names; SyncError when a job may not have it.

    Relative paths are relative to the worker's working directory. Symlinks are resolved once, here; what
    counts is where they lead.
    """

    def refuse(why: str) -> SyncError:
        return SyncError(f"local_path {local_path!r} is refused: {why}")

    if not local_path or "\0" in local_path:
        raise refuse("it names no folder")
    try:
        cwd = Path.cwd()
        written = Path("/", *_normal_parts(cwd / local_path))
        real = (cwd / local_path).resolve()
    except (OSError, RuntimeError) as error:
        raise refuse(f"it cannot be resolved ({error})") from None
    homes = _homes()
    for path in dict.fromkeys((written, real)):
        if path == Path("/"):
            raise refuse("the root of the file system is never a job's folder")
        if _is_system(path):
            raise refuse(f"{path} is a system folder")
        if path in homes:
            raise refuse(f"{path} is a home directory; name a folder in it")
        if cwd.is_relative_to(path):
            raise refuse(f"{path} is or contains the worker's working directory")
        if temp_dir.resolve().is_relative_to(path):
            raise refuse(f"{path} is or contains the worker's temporary folder")
    if any(home.is_relative_to(real) for home in homes if home.is_dir()):
        raise refuse(f"{real} contains a home directory")
    if allowed_roots and not any(real.is_relative_to(root.resolve()) for root in allowed_roots):
        raise refuse(f"it is in none of KELPIE_ALLOWED_ROOTS ({', '.join(map(str, allowed_roots))})")
    return real


def make_folder(folder: Path) -> None:
    """Create the folder where it is missing; SyncError when that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SyncError(f"the folder {folder} cannot be made: {error.strerror}") from None


_staged: set[Path] = set()
"""Copies that wait for their upload: no job of this process empties them with its folders."""


def protect(copy: Path) -> None:
    """Keep a staged copy through every `empty_folder`, until `unprotect`."""
    _staged.add(copy)


def unprotect(copy: Path) -> None:
    """The copy may be deleted."""
    _staged.discard(copy)


def staged_in(folder: Path) -> list[Path]:
    """The copies of any job that lie in the folder, at any depth."""
    return [copy for copy in tuple(_staged) if copy != folder and copy.is_relative_to(folder)]


def empty_folder(folder: Path) -> None:
    """Delete what is in the folder; the folder itself stays, and so do staged copies of any job.

    SyncError names what could not be deleted. A folder that was replaced by a symlink meanwhile loses the
    symlink, never what it leads to.
    """
    try:
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            folder.unlink()
            folder.mkdir()
            return
        if folder.parent.resolve() != folder.parent:  # some parent became a symlink: no longer our folder
            raise SyncError(f"{folder} no longer is where it was when the job began; it is not emptied")
        if not folder.exists():
            return
        staged = staged_in(folder)
        for child in folder.iterdir():
            if child in staged:
                continue
            if any(copy.is_relative_to(child) for copy in staged):
                empty_folder(child)
            elif child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            else:
                child.unlink(missing_ok=True)
    except OSError as error:
        raise SyncError(f"the folder {folder} cannot be emptied: {error}") from None


def outermost(folders: Iterable[Path]) -> list[Path]:
    """The distinct folders that lie in no other of them."""
    distinct = set(folders)
    return sorted(
        path
        for path in distinct
        if not any(path != other and path.is_relative_to(other) for other in distinct)
    )


def _normal_parts(path: Path) -> list[str]:
    parts: list[str] = []
    for part in path.parts[1:]:
        if part == "..":
            if parts:
                parts.pop()
        else:
            parts.append(part)
    return parts


def _is_system(path: Path) -> bool:
    if path != _SHARED_MEMORY and path.is_relative_to(_SHARED_MEMORY):
        return False
    return path in _SYSTEM_FOLDERS or any(path.is_relative_to(tree) for tree in _SYSTEM_TREES)


def _homes() -> frozenset[Path]:
    homes = {Path(entry.pw_dir) for entry in pwd.getpwall()}
    with contextlib.suppress(RuntimeError):  # a user without an entry in the password file
        homes.add(Path.home())
    return frozenset(home.resolve() for home in homes if home.is_absolute() and home != Path("/"))
