"""How this worker starts processes of its own code: by Python, or by the standalone binary that it is
itself."""

from __future__ import annotations

import sys

GUARDIAN, SLOT = "guardian", "slot"
MODULES = {GUARDIAN: "kelpie_worker.guardian", SLOT: "kelpie_worker.slot"}
FROZEN = bool(getattr(sys, "frozen", False))
"""Whether this is the standalone binary; see binary.py."""

_LOADER = (
    "import json, sys; "
    "exec(compile(json.load(open(int(sys.argv[1]), closefd=False))['program'], 'guardian.py', 'exec'))"
)


def program(name: str) -> list[str]:
    """The command line that runs one of our programs, without its arguments."""
    if FROZEN:
        return [sys.executable, name]
    return [sys.executable, "-m", MODULES[name]]


def lean_program(name: str) -> list[str]:
    """Likewise for one that needs nothing but the standard library, and no file of ours on any disk.

    Its first argument is the number of an open file, of JSON with its source as ``program``.
    """
    if FROZEN:
        return [sys.executable, name]
    return [sys.executable, "-I", "-S", "-c", _LOADER]
