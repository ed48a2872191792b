"""Libraries in C that a check preloads into a process: built when they are needed, never committed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def build(source: Path, directory: Path) -> Path:
    """The library made of ``source``, in ``directory``. FileNotFoundError without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise FileNotFoundError("no C compiler: install gcc (apt-get install gcc libc6-dev)")
    library = directory / f"{source.stem}.so"
    subprocess.run(
        [compiler, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"],
        check=True,
        capture_output=True,
    )
    return library
