"""The platform process: tickers in threads, deliverers as child processes, one order of start and end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import FrameType

import structlog

from kelpie.config import Settings
from kelpie.errors import UnavailableError
from kelpie.platform.autoscaler import Autoscaler
from kelpie.platform.dispatcher import INTERVAL_S, Dispatcher
from kelpie.platform.janitor import CHECK_INTERVAL_S, Janitor
from kelpie.platform.reaper import Reaper
from kelpie.platform.relay import Relay
from kelpie.platform.sampler import INTERVAL_S as SAMPLE_INTERVAL_S
from kelpie.platform.sampler import Sampler
from kelpie.platform.tasks import keeping
from kelpie.platform.ticker import Ticker
from kelpie.providers import make_provider
from kelpie.store import Store
from kelpie.store.connection import make_plain_client

RELAY_INTERVAL_S = 0.25
WATCH_INTERVAL_S = 0.25
RESPAWN_MIN_S, RESPAWN_MAX_S = 0.5, 5.0
STEADY_S = 10.0
"""A deliverer that lived this long is started again at once; one that did not, after a growing pause."""
REDIS_TIMEOUT_S = 10.0

log = structlog.get_logger(__name__)


class Supervisor:
    """Runs the tickers (relay, dispatcher, reaper, autoscaler, …) and deliverers until a signal ends them."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._rq = make_plain_client(settings.deliveries_url, socket_timeout=REDIS_TIMEOUT_S)
        self._autoscaler = Autoscaler(
            store,
            make_provider(settings, store),
            interval_s=settings.autoscale_interval_s,
            cooldown_s=settings.autoscale_cooldown_s,
        )
        deliveries = store.deliveries.keeping(keeping(settings))
        dispatcher = Dispatcher(
            deliveries, self._rq, workers=settings.webhook_workers, timeout_s=settings.webhook_timeout_s
        )
        self._sampler = Sampler(store)
        self._tickers = [
            Ticker("relay", Relay(store, deliveries).tick, RELAY_INTERVAL_S),
            Ticker("dispatcher", dispatcher.tick, INTERVAL_S),
            Ticker("reaper", Reaper(store).tick, settings.reap_interval_s),
            Ticker("autoscaler", self._autoscaler.tick, self._autoscaler.pulse_s),
            Ticker("sampler", self._sampler.tick, SAMPLE_INTERVAL_S),
        ]
        if settings.retention_days:
            janitor = Janitor(store, keep_days=settings.retention_days)
            self._tickers.append(Ticker("janitor", janitor.tick, CHECK_INTERVAL_S))
        self._deliverers = [Child() for _ in range(settings.webhook_workers)]
        self._stopping = False

    def run(self) -> None:
        """Block until SIGTERM or SIGINT.

        Call it in the main thread: a deliverer ends with the thread that started it.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)
        for ticker in self._tickers:
            ticker.start()
        log.info("platform is running", deliverers=len(self._deliverers))
        try:
            while not self._stopping:
                for deliverer in self._deliverers:
                    deliverer.watch()
                time.sleep(WATCH_INTERVAL_S)
        finally:
            self._stop()

    def _ask_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        # Only a flag: a handler may run while the main thread holds any lock.
        self._stopping = True

    def _stop(self) -> None:
        """What feeds others ends first: the tickers, then the deliverers with what they have begun."""
        deadline = time.monotonic() + self._settings.shutdown_grace_s
        for ticker in self._tickers:
            ticker.stop(max(0.0, deadline - time.monotonic()))
        for deliverer in self._deliverers:
            deliverer.ask_to_stop()
        for deliverer in self._deliverers:
            deliverer.stop(max(0.0, deadline - time.monotonic()))
        try:
            self._autoscaler.close()
            self._sampler.close()
        except UnavailableError:
            log.warning("redis is away; the locks of autoscaler and sampler end by themselves")
        self._rq.close()
        log.info("platform has stopped")


class Child:
    """One delivering process, started again whenever it ends."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self._pause_s = 0.0

    def watch(self) -> None:
        """Start the process if it does not run and its pause is over."""
        if self._process is not None:
            if self._process.poll() is None:
                return
            log.warning("a deliverer ended", exit_code=self._process.returncode)
            lived_s = time.monotonic() - self._started_s
            self._pause_s = (
                0.0 if lived_s >= STEADY_S else min(max(2 * self._pause_s, RESPAWN_MIN_S), RESPAWN_MAX_S)
            )
            self._process = None
        if time.monotonic() < self._started_s + self._pause_s:
            return
        self._started_s = time.monotonic()
        # A session of its own: Ctrl-C goes to us alone, and we end the deliverers in order.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kelpie.platform.deliverer", str(os.getpid())], start_new_session=True
        )

    def ask_to_stop(self) -> None:
        """Let it finish its delivery and end."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def stop(self, timeout_s: float) -> None:
        """Wait ``timeout_s`` seconds for its end, then end it."""
        if self._process is None:
            return
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
