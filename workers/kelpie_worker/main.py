"""Puts a worker together and runs it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from kelpie import logs
from kelpie.errors import StartupError
from kelpie_worker import orphans
from kelpie_worker.claims import FolderClaims
from kelpie_worker.deletion_cost import DeletionCost, LastUploads
from kelpie_worker.exit_codes import BAD_SETTINGS
from kelpie_worker.http_queue import HttpQueue
from kelpie_worker.imds import MetadataService, NobodyToAsk
from kelpie_worker.kubernetes import PodAnnotation
from kelpie_worker.loop import Worker
from kelpie_worker.memory_limit import MemoryLimit
from kelpie_worker.notices import NoticeWatcher
from kelpie_worker.output import LogStream
from kelpie_worker.queue import JobQueue
from kelpie_worker.redis_queue import RedisQueue
from kelpie_worker.settings import Settings
from kelpie_worker.state import StateFile
from kelpie_worker.stop import Stop
from kelpie_worker.sync import SyncEngine

JOURNAL_NAME = ".kelpie-folders.json"
"""Beside the state file: which folders hold a job's data, for the worker that follows a killed one."""

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Machine:
    """What a worker shares with the other slots of its machine."""

    claims: FolderClaims
    idle_for: Callable[[float], bool]  # whether the others have had no job for so many seconds
    tell_cost: Callable[[int], bool]


def run(settings: Settings, options: Mapping[str, str | None]) -> int:
    """Run a worker, or one for each slot, in the main thread until stopped or replaced; one of `exit_codes`.

    ``options``: what of the command line overrides the environment, by field name. StartupError.
    """
    from kelpie_worker import slots  # needs what is here

    if settings.slots > 1:
        return slots.run(settings, options)
    set_up_logs(settings)
    stop = Stop()
    stop.listen()
    slots.recover_others(settings)
    return serve(settings, stop)


def set_up_logs(settings: Settings) -> None:
    """Send log lines to stderr, as long as somebody reads them."""
    logs.configure(settings.log_level, LogStream())


def cost_teller(settings: Settings) -> Callable[[int], bool]:
    """Whom this machine tells what its end would cost."""
    pod = PodAnnotation.find(os.environ)
    return (pod or MetadataService(settings.imds_url)).set_deletion_cost


def serve(settings: Settings, stop: Stop, machine: Machine | None = None) -> int:
    """Run one worker; ``machine`` is what it shares when it is a slot."""
    orphans.adopt()
    log = _log.bind(node=settings.machine_id)
    try:
        memory = MemoryLimit.of(settings)
        queue: JobQueue = RedisQueue(settings) if settings.direct else HttpQueue(settings)
    except StartupError as error:
        log.error("worker cannot start", error=str(error))  # noqa: TRY400  (a sentence, no traceback)
        return BAD_SETTINGS
    state = StateFile(settings.state_file)
    uploads = LastUploads(state)
    engine = SyncEngine(settings.sync, uploads, journal=settings.state_file.with_name(JOURNAL_NAME))
    notices = NoticeWatcher.of(settings.notices, settings.imds_url, stop)
    engine.recover()
    if machine is not None:
        machine.claims.clear()
    state.open()
    notices.start()
    slot = {"slot": settings.slot} if settings.slot else {}
    log.info("worker started", queue=settings.container_group_id, direct=settings.direct, **slot)
    imds = MetadataService(settings.imds_url) if machine is None else NobodyToAsk()
    worker = Worker(
        settings=settings,
        queue=queue,
        engine=engine,
        state=state,
        imds=imds,
        stop=stop,
        uploads=uploads,
        memory=memory,
        claims=None if machine is None else machine.claims,
        machine_idle_for=(lambda _: True) if machine is None else machine.idle_for,
    )
    tell_cost = cost_teller(settings) if machine is None else machine.tell_cost
    cost = DeletionCost(worker.deletion_cost, tell_cost)
    if settings.deletion_cost:
        cost.start()
    try:
        code = worker.run()
    except StartupError as error:
        log.error("worker cannot work", error=str(error))  # noqa: TRY400  (as above)
        code = BAD_SETTINGS
    finally:
        notices.close()
        cost.close()
        engine.close()
        state.close()
        queue.close()
    log.info("worker stopped", exit_code=code)
    return code
