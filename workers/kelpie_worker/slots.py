"""Several workers on one machine: a supervisor, and a worker process for each slot.

To the queue all slots are one node: bans, drains and replacement are the machine's; each job has a lease of
its own, which its slot alone knows. A slot that dies is started again. The machine is replaced when every
slot is through with its job and its data.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Mapping

import structlog

from kelpie.errors import StartupError
from kelpie_worker import orphans, slot
from kelpie_worker.backoff import Backoff
from kelpie_worker.claims import CLAIMS_NAME
from kelpie_worker.deletion_cost import MAX_DELETION_COST, DeletionCost
from kelpie_worker.exit_codes import BAD_SETTINGS, REPLACE_NODE, STOPPED
from kelpie_worker.gpus import VARIABLE, split, visible_gpus
from kelpie_worker.imds import MetadataService
from kelpie_worker.locks import try_lock
from kelpie_worker.loop import REPLACEMENT_WAIT_S
from kelpie_worker.main import JOURNAL_NAME, cost_teller, set_up_logs
from kelpie_worker.memory_limit import MemoryLimit
from kelpie_worker.notices import NoticeWatcher
from kelpie_worker.programs import SLOT, program
from kelpie_worker.settings import Settings
from kelpie_worker.slot_places import settings_of_slot, slot_folders
from kelpie_worker.stop import Stop
from kelpie_worker.sync import NullObserver, SyncEngine

_RESTART_S = (0.5, 60.0)
_STEADY_S = 300.0
"""After a slot that lived so long the pauses begin anew."""
_NOT_STARTED = -1

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


def run(settings: Settings, options: Mapping[str, str | None]) -> int:
    """Run all slots in the main thread until stopped or replaced; one of ``exit_codes``. StartupError.

    ``options``: what of the command line overrides the environment, by field name.
    """
    if settings.recreate_between_jobs:
        raise StartupError("KELPIE_RECREATE_BETWEEN_JOBS gives each job a container: it needs KELPIE_SLOTS=1")
    set_up_logs(settings)
    stop = Stop()
    stop.listen()
    orphans.adopt()
    MemoryLimit.of(settings)  # moves all of this aside before the slots begin
    recover_others(settings)
    return Slots(settings, options, stop).run()


def recover_others(settings: Settings) -> None:
    """Empty the folders of slots that there are no more of, and forget what they had."""
    used = settings.slots if settings.slots > 1 else 0
    for number, folder in slot_folders(settings):
        if number <= used:
            continue
        try:
            lock = try_lock(folder / slot.LOCK_NAME)
            if lock is None:
                continue
            try:
                sync = settings_of_slot(settings, number).sync
                SyncEngine(sync, NullObserver(), journal=folder / JOURNAL_NAME).recover()
                (folder / CLAIMS_NAME).unlink(missing_ok=True)
                # it may show a job that never ends
                (folder / settings.state_file.name).unlink(missing_ok=True)
            finally:
                os.close(lock)
        except OSError as error:
            _log.warning("what a slot of before has left stays", folder=str(folder), error=str(error))


class Slots:
    """The slots of this machine."""

    def __init__(self, settings: Settings, options: Mapping[str, str | None], stop: Stop) -> None:
        self._settings = settings
        self._options = dict(options)
        self._stop = stop
        self._log = _log.bind(node=settings.machine_id)
        self._gpus = split(visible_gpus(settings.gpus, os.environ), settings.slots)
        self._lock = threading.Lock()
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._costs: dict[int, int] = {}
        self._orders = b""  # what every slot was told, for one that starts now
        self._ended: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()

    def run(self) -> int:
        """Until every slot has ended for good; the exit code of the process."""
        settings = self._settings
        imds = MetadataService(settings.imds_url)
        notices = NoticeWatcher.of(settings.notices, settings.imds_url, self._stop)
        notices.start()
        cost = DeletionCost(self.deletion_cost, cost_teller(settings))
        if settings.deletion_cost:
            cost.start()
        self._stop.subscribe(self._end)
        self._stop.when_retiring(self._retire)
        self._log.info("worker started", slots=settings.slots, gpus=self._gpus)
        try:
            code = self._serve()
            if code == REPLACE_NODE and imds.reallocate("one of its workers asks to be replaced"):
                self._stop.requested.wait(REPLACEMENT_WAIT_S)
                code = STOPPED
        finally:
            notices.close()
            cost.close()
        self._log.info("worker stopped", exit_code=code)
        return code

    def deletion_cost(self) -> int:
        """What the end of this machine would lose: the work of all slots."""
        with self._lock:
            costs = list(self._costs.values())
        return MAX_DELETION_COST if MAX_DELETION_COST in costs else min(sum(costs), MAX_DELETION_COST - 1)

    def _serve(self) -> int:
        code = STOPPED
        left = set(range(1, self._settings.slots + 1))
        for number in left:
            self._keep(number)
        while left:
            number, ended = self._ended.get()
            left.discard(number)
            if ended == STOPPED or code:
                continue
            code = ended
            if ended == REPLACE_NODE:
                self._log.warning("this machine is to be replaced, once all slots are through", slot=number)
                self._retire()
            else:
                self._end()
        return STOPPED if self._stop.requested.is_set() and code == REPLACE_NODE else code

    def _keep(self, number: int) -> None:
        threading.Thread(target=self._keep_up, args=(number,), name=f"slot-{number}", daemon=True).start()

    def _keep_up(self, number: int) -> None:
        """Start the slot until it ends by itself or is told to; runs in a thread of its own."""
        backoff = Backoff(*_RESTART_S)
        while True:
            began = time.monotonic()
            code = _NOT_STARTED
            try:
                code = self._run_once(number)
                orphans.kill()  # what a guardian that died with the slot has left
            except (OSError, RuntimeError) as error:  # short of processes, of memory, or of descriptors
                self._log.error("a slot cannot be started or cleared up", slot=number, error=str(error))
            if time.monotonic() - began >= _STEADY_S:
                backoff.reset()
            if code in {STOPPED, BAD_SETTINGS, REPLACE_NODE} or self._orders:
                self._ended.put((number, code if code > 0 else STOPPED))
                return
            self._log.error("a slot died; it is started again", slot=number, exit_code=code)
            self._stop.requested.wait(backoff.pause_s())

    def _run_once(self, number: int) -> int:
        """From its start to its end; the exit code. OSError: it cannot be started."""
        read_end, write_end = os.pipe()
        told = {"slot": number, "options": self._options, "report": write_end}
        env = dict(os.environ)
        if self._gpus[number - 1]:
            env[VARIABLE] = ",".join(self._gpus[number - 1])
        with open(read_end, "rb") as costs:  # noqa: PTH123  (an open file)
            try:
                with orphans.starting():
                    process = subprocess.Popen(
                        [*program(SLOT), json.dumps(told)],
                        stdin=subprocess.PIPE,
                        env=env,
                        start_new_session=True,
                        pass_fds=(write_end,),
                    )
                    orphans.own(process.pid)
            finally:
                os.close(write_end)
            with self._lock:
                self._running[number] = process
                self._send(process, self._orders)
            for line in costs:  # until the slot ends
                with self._lock, contextlib.suppress(ValueError):
                    self._costs[number] = int(line)
        code = process.wait()
        orphans.disown(process.pid)
        with self._lock:
            self._costs.pop(number, None)
            del self._running[number]
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
        return code

    def _end(self) -> None:
        """Every slot ends in good order; after a second request at once, whatever has brought the first."""
        with self._lock:
            ends = 2 if self._stop.at_once.is_set() else 1
            self._tell(slot.END * (ends - self._orders.count(slot.END)))

    def _retire(self) -> None:
        with self._lock:
            self._tell(slot.RETIRE)

    def _tell(self, orders: bytes) -> None:
        self._orders += orders
        for process in self._running.values():
            self._send(process, orders)

    @staticmethod
    def _send(process: subprocess.Popen[bytes], orders: bytes) -> None:
        assert process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it has ended
            process.stdin.write(orders)
            process.stdin.flush()
