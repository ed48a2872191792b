"""One slot of a machine: a worker process that a supervisor has started, and that ends with it.

Run as ``python -m kelpie_worker.slot JSON``, with the environment of the supervisor. Its standard input is a
pipe of orders: ``r`` no other job is taken, ``t`` end in good order (again: at once); the end of the pipe,
which comes with the end of the supervisor, means at once. Signals are the supervisor's business: whoever
signals every process of a container means one request, not two. ``report`` in the JSON is a descriptor to
write to: what the end of the slot would cost, in lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import sys
import threading
from pathlib import Path

import structlog

from kelpie.errors import StartupError
from kelpie_worker.claims import FolderClaims
from kelpie_worker.exit_codes import BAD_SETTINGS, STOPPED
from kelpie_worker.locks import holder, try_lock
from kelpie_worker.main import Machine, serve, set_up_logs
from kelpie_worker.settings import Settings
from kelpie_worker.slot_places import OtherSlots, settings_of_slot
from kelpie_worker.stop import RETIRE_SIGNAL, STOP_SIGNALS, Stop

RETIRE, END = b"r", b"t"
LOCK_NAME = ".kelpie-slot.lock"
_LOCK_POLL_S = 0.1

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


def main(argument: str) -> int:
    """Serve until told to end; one of ``exit_codes``."""
    told = json.loads(argument)
    for number in (*STOP_SIGNALS, RETIRE_SIGNAL, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.set_inheritable(told["report"], False)
    settings = settings_of_slot(Settings.from_env(**told["options"]), told["slot"])
    set_up_logs(settings)
    stop = Stop()
    threading.Thread(target=_obey, args=(stop,), name="orders", daemon=True).start()
    folder = settings.state_file.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _make_own(settings.sync.temp_dir)
    except OSError as error:
        raise StartupError(f"{error.filename} cannot be made: {error.strerror}") from None
    if not wait_for_lock(folder, stop):
        return STOPPED
    machine = Machine(
        claims=FolderClaims(folder),
        idle_for=OtherSlots(settings).idle_for,
        tell_cost=lambda cost: _tell(told["report"], cost),
    )
    return serve(settings, stop, machine)


def _make_own(folder: Path) -> None:
    """Others may write beside it, and know its name: what they have put there is not used. OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise StartupError(
            f"{folder} is not a folder of this user: remove it, or set KELPIE_TEMP_DIR to another folder"
        )


def wait_for_lock(folder: Path, stop: Stop) -> bool:
    """Hold the slot until this process ends; False: a stop was asked for first. OSError."""
    lock, said = folder / LOCK_NAME, False
    while try_lock(lock) is None:
        if not said:  # most likely an earlier process of this slot, which still ends
            _log.warning(
                "another process has this slot: its end is waited for", path=str(lock), pid=holder(lock)
            )
        said = True
        if stop.requested.wait(_LOCK_POLL_S):
            return False
    return True


def _obey(stop: Stop) -> None:
    while orders := os.read(0, 64):
        for order in orders:
            if order == RETIRE[0]:
                stop.retire()
            elif order == END[0]:
                stop.request()
    stop.request()
    stop.request()


def _tell(report: int, cost: int) -> bool:
    with contextlib.suppress(OSError):
        os.write(report, b"%d\n" % cost)
    return True


def run() -> int:
    """What the command line asks for; the exit code of the process."""
    try:
        return main(sys.argv[1])
    except StartupError as error:
        print(f"kelpie worker: {error}", file=sys.stderr)  # noqa: T201  (before there is a log)
        return BAD_SETTINGS


if __name__ == "__main__":
    sys.exit(run())
