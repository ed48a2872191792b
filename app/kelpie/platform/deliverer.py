"""A process that delivers webhooks: an RQ worker. ``python -m kelpie.platform.deliverer PARENT_PID``."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from rq import Worker
from rq.serializers import JSONSerializer

from kelpie.platform.startup import exit_codes, read_settings
from kelpie.platform.tasks import QUEUE
from kelpie.store.connection import make_plain_client

PR_SET_PDEATHSIG = 1


class Deliverer(Worker):
    """RQ's worker, back soon after an outage of Redis, and silent about what it delivers."""

    max_connection_wait_time = 2.0
    log_job_description = False
    log_result_lifespan = False


def main(parent_pid: int) -> None:
    """Deliver until SIGTERM, or until the supervisor ``parent_pid`` is gone."""
    _end_with(parent_pid)
    with exit_codes("kelpie platform (deliverer)"):
        settings = read_settings()
        connection = make_plain_client(settings.deliveries_url)
    worker = Deliverer([QUEUE], connection=connection, serializer=JSONSerializer, maintenance_interval=60)
    worker.work(logging_level="WARNING")


def _end_with(parent_pid: int) -> None:
    """Ask the kernel for SIGTERM at the supervisor's death, however it dies."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:  # it died before we asked
        sys.exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
