"""The standalone worker: what ``kelpie-worker`` runs, in images that have no Python of their own.

Without arguments of ours it is ``kelpie worker``. It starts itself anew for the programs that it consists of.
"""

from __future__ import annotations

import os
import sys

from kelpie_worker.programs import GUARDIAN, SLOT

_LIBRARIES = "LD_LIBRARY_PATH"
_OURS = "_PYI_"


def restore_environment() -> None:
    """Undo what the loader of this binary has set: commands have libraries of their own."""
    original = os.environ.pop(f"{_LIBRARIES}_ORIG", None)
    if original is not None:
        os.environ[_LIBRARIES] = original
    elif getattr(sys, "_MEIPASS", None) in os.environ.get(_LIBRARIES, "").split(os.pathsep):
        del os.environ[_LIBRARIES]
    for name in [name for name in os.environ if name.startswith(_OURS)]:
        del os.environ[name]


def main() -> None:
    """Run the program that the first argument names, or the worker."""
    restore_environment()
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in {GUARDIAN, SLOT}:
        del sys.argv[1]
    if name == GUARDIAN:
        from kelpie_worker import guardian

        guardian.main()
    elif name == SLOT:
        from kelpie_worker import slot

        sys.exit(slot.run())
    else:
        from kelpie.cli.worker import command

        command(prog_name="kelpie-worker")


if __name__ == "__main__":
    main()
