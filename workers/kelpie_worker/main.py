"""Puts a worker together and runs it."""

from __future__ import annotations

import structlog

from kelpie import logs
from kelpie.errors import StartupError
from kelpie_worker import orphans
from kelpie_worker.deletion_cost import DeletionCost, LastUploads
from kelpie_worker.exit_codes import BAD_SETTINGS
from kelpie_worker.http_queue import HttpQueue
from kelpie_worker.imds import MetadataService
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


def run(settings: Settings) -> int:
    """Run a worker in the main thread until it is stopped or replaced; one of ``exit_codes``."""
    logs.configure(settings.log_level, LogStream())
    stop = Stop()
    stop.listen()
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
    state.open()
    notices.start()
    log.info("worker started", queue=settings.container_group_id, direct=settings.direct)
    imds = MetadataService(settings.imds_url)
    worker = Worker(
        settings=settings,
        queue=queue,
        engine=engine,
        state=state,
        imds=imds,
        stop=stop,
        uploads=uploads,
        memory=memory,
    )
    cost = DeletionCost(worker.deletion_cost, imds)
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
