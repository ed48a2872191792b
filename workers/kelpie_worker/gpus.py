"""The GPUs of this machine, and which of them each slot gets."""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Mapping, Sequence

VARIABLE = "CUDA_VISIBLE_DEVICES"
_LIST_TIMEOUT_S = 30.0  # a driver that wakes up
_UUID = re.compile(r"\(UUID: ((GPU|MIG)-[\w/-]+)\)")


def visible_gpus(named: str, environ: Mapping[str, str]) -> list[str]:
    """As ``CUDA_VISIBLE_DEVICES`` names them: those of KELPIE_GPUS, else the container's own list, else all.

    All are those that ``nvidia-smi`` lists; a GPU that is cut into MIG devices counts as these.
    """
    if named:
        return _listed(named)
    if VARIABLE in environ:
        return _listed(environ[VARIABLE])
    try:
        found = subprocess.run(
            ["nvidia-smi", "-L"],
            capture_output=True,
            text=True,
            check=True,
            timeout=_LIST_TIMEOUT_S,
            env=dict(environ),
        ).stdout
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
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
