"""Turns itself into a job's command, as a process that cannot outlive its worker.

Run as a script of its own (``python -I -S launcher.py FD``), not imported: between fork and exec nothing of
the worker's state is there to go wrong, unlike in a ``preexec_fn``. The open file FD holds JSON: ``argv``,
``env`` and ``parent``, the pid of the worker. When the command cannot be started, a sentence goes to the pipe
``report`` and the process ends with 127 (not found) or 126 (anything else), as a shell would; the pipe closes
unwritten on success.

This process keeps the worker's environment until it is replaced, so that a job's ``LD_LIBRARY_PATH`` or
``PYTHONHOME`` meets the command alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h
NOT_FOUND = 127
NOT_STARTED = 126


def main() -> None:
    """Read the order, die with the parent from now on, become the command."""
    with open(int(sys.argv[1]), encoding="ascii") as order_file:  # noqa: PTH123  (an open file)
        order_file.seek(0)
        order = json.load(order_file)
    report = order["report"]
    os.set_inheritable(report, False)  # exec closes it: the worker reads the end of the pipe as success

    with contextlib.suppress(AttributeError, OSError):  # not Linux: the command may outlive its worker there
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != order["parent"]:  # the worker died before the line above took effect
        os._exit(NOT_STARTED)

    # Python ignores some, nohup and shells ignore others, and the worker blocks the signals that stop it: a
    # command starts with none of that
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        os.execvpe(order["argv"][0], order["argv"], order["env"])  # noqa: S606  (argv, never a shell)
    except FileNotFoundError:
        code, why = NOT_FOUND, "command not found"
    except (OSError, ValueError) as error:  # ValueError: a NUL byte, or "=" in the name of a variable
        code, why = NOT_STARTED, f"command cannot be started: {getattr(error, 'strerror', None) or error}"
    os.write(report, why.encode())
    os._exit(code)


if __name__ == "__main__":
    main()
