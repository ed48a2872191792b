"""What every server process does first: read its settings, set up its logs, reach Redis."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
import structlog

from kelpie import logs
from kelpie.config import Settings, load_settings
from kelpie.errors import StartupError, UnavailableError
from kelpie.store import Store

EX_UNAVAILABLE = 69
EX_CONFIG = 78
RETRY_S = 0.5

log = structlog.get_logger(__name__)


@contextmanager
def exit_codes(process: str) -> Iterator[None]:
    """Say why ``process`` cannot start, and exit with the code that tells supervisors the same."""
    try:
        yield
    except StartupError as error:
        click.echo(f"{process}: {error}", err=True)
        sys.exit(EX_CONFIG)
    except UnavailableError as error:
        click.echo(f"{process}: {error}", err=True)
        sys.exit(EX_UNAVAILABLE)


def read_settings() -> Settings:
    """The settings of this process, with logs at their level. Raises StartupError."""
    settings = load_settings()
    logs.configure(settings.log_level)
    return settings


def open_store(settings: Settings) -> Store:
    """A store that is fit to keep jobs. The caller closes it.

    Waits ``redis_wait_s`` for Redis to come up. Raises UnavailableError when it does not, StartupError when
    it is set up in a way that would lose jobs.
    """
    deadline = time.monotonic() + settings.redis_wait_s
    while True:
        try:
            return _checked(settings)
        except UnavailableError as error:
            if time.monotonic() + RETRY_S > deadline:
                raise
            log.warning("redis cannot be reached yet", error=str(error))
            time.sleep(RETRY_S)


def _checked(settings: Settings) -> Store:
    store = connect(settings)
    try:
        for warning in store.check():
            log.warning("jobs are not as safe as they could be", reason=warning)
    except BaseException:
        store.close()
        raise
    return store


def connect(settings: Settings) -> Store:
    """A store as the settings say, unchecked; connects when first used. Raises StartupError for a bad URL."""
    return Store.connect(
        settings.redis_url, allow_volatile=settings.allow_volatile, wait_replicas=settings.wait_replicas
    )
