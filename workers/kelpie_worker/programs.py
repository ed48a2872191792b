"""How this worker starts processes of its own code."""

from __future__ import annotations

import sys

FLAGS = ("-I", "-S")


def python_module(name: str) -> list[str]:
    """The command line that runs a module of ours as a program."""
    return [sys.executable, "-m", name]


def python_script(path: str) -> list[str]:
    """The command line that runs a script that needs nothing but the standard library."""
    return [sys.executable, *FLAGS, path]
