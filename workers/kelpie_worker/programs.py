"""How this worker starts processes of its own code: by Python, or by the standalone binary that it is
itself."""

from __future__ import annotations

import sys

GUARDIAN, SLOT = "guardian", "slot"
MODULES = {GUARDIAN: "kelpie_worker.guardian", SLOT: "kelpie_worker.slot"}


def program(name: str) -> list[str]:
    """The command line that runs one of our programs, without its arguments."""
    if getattr(sys, "frozen", False):  # see binary.py
        return [sys.executable, name]
    return [sys.executable, "-m", MODULES[name]]


def lean_program(name: str, path: str) -> list[str]:
    """Likewise for one that needs nothing but the standard library, in the file ``path``."""
    if getattr(sys, "frozen", False):
        return [sys.executable, name]
    return [sys.executable, "-I", "-S", path]
