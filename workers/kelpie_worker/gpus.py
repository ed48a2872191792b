"""The GPUs of this machine, and which of them each slot gets."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from kelpie.errors import StartupError
from kelpie_worker import orphans

VARIABLE = "CUDA_VISIBLE_DEVICES"
_LIST_TIMEOUT_S = 30.0  # a driver that wakes up
_NO_GPU = "No devices"
_MAX_SAID = 200
_UUID = re.compile(r"\(UUID: ((GPU|MIG)-[\w/-]+)\)")


def visible_gpus(named: str, environ: Mapping[str, str]) -> list[str]:
    """As ``CUDA_VISIBLE_DEVICES`` names them: those of KELPIE_GPUS, else the container's own list, else all.

    All are those that ``nvidia-smi`` lists; a GPU that is cut into MIG devices counts as these. StartupError
    when there is an ``nvidia-smi`` that cannot tell: every slot would get every GPU.
    """
    if named:
        return _listed(named)
    if VARIABLE in environ:
        return _listed(environ[VARIABLE])
    tool = shutil.which("nvidia-smi", path=environ.get("PATH"))
    if tool is None:
        return []
    try:
        found = _listed_by(tool, environ)
    except (OSError, ValueError) as error:
        raise StartupError(
            f"the GPUs cannot be divided among slots: {tool} -L: {error}; set KELPIE_GPUS to their names, "
            "or to none"
        ) from None
    gpus: list[str] = []
    whole = False  # whether the last one is a GPU of which no part was seen yet
    for match in map(_UUID.search, found.splitlines()):
        if match is None:
            continue
        if match[2] == "MIG" and whole:
            gpus.pop()
        gpus.append(match[1])
        whole = match[2] == "GPU"
    return gpus


def _listed_by(tool: str, environ: Mapping[str, str]) -> str:
    """The lines of ``nvidia-smi -L``. OSError: it cannot be run; ValueError with what went wrong."""
    with orphans.starting():
        process = subprocess.Popen(
            [tool, "-L"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=dict(environ),
        )
        orphans.own(process.pid)
    try:
        found, _ = process.communicate(timeout=_LIST_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()  # and not waited for: where the driver hangs, it sleeps in the kernel
        raise ValueError(f"it has not ended within {_LIST_TIMEOUT_S:g} s") from None
    finally:
        orphans.disown(process.pid)
    if _NO_GPU in found:
        return ""
    if process.returncode or (found.strip() and not _UUID.search(found)):
        raise ValueError(f"it ended with {process.returncode}: {found.strip()[:_MAX_SAID]!r}")
    return found


def split(gpus: Sequence[str], slots: int) -> list[list[str]]:
    """The GPUs of each slot: neighbours together, as evenly as can be; slots share when there are fewer."""
    if not gpus:
        return [[] for _ in range(slots)]
    if len(gpus) < slots:
        return [[gpus[slot * len(gpus) // slots]] for slot in range(slots)]
    bounds = [slot * len(gpus) // slots for slot in range(slots + 1)]
    return [list(gpus[low:high]) for low, high in itertools.pairwise(bounds)]


def _listed(text: str) -> list[str]:
    """What CUDA sees of such a list: it ends at the first entry that is none."""
    found: list[str] = []
    for entry in (part.strip() for part in text.split(",")):
        if not entry or entry.startswith("-") or entry in {"NoDevFiles", "none", "void"}:
            break
        if entry not in found:
            found.append(entry)
    return found
