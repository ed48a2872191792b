"""Notices what happens in the watched folders of one job while its command runs.

inotify (through watchdog) says what to look at; every event only leads to a look at the name itself, so an
event too many is harmless. What inotify cannot say is found by scanning: a folder that appeared with files in
it, a queue that overflowed, symlinked folders, network mounts, a limit on watches, and a watched folder that
the command deleted and made anew.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import structlog

from kelpie_worker.sync.errors import CanceledTransfer
from kelpie_worker.sync.gate import Gate
from kelpie_worker.sync.mirror import Mirror
from kelpie_worker.sync.writers import is_network_mount

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent, FileSystemEventHandler
    from watchdog.observers.api import BaseObserver, ObservedWatch

log = structlog.get_logger(__name__)

RESCAN_S = 10.0
"""Between two scans of a folder that inotify watches."""
POLL_S = 1.0
"""Between two scans of a folder that it does not, and between two looks at the watched folders themselves."""
SCAN_SHARE = 20
"""Scanning takes at most one part in so many of the time, however large the folder."""


class Watcher:
    """One thread that turns events and scans into uploads, for all ``during`` entries of a job."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.wakened = threading.Event()
        self._stopping = False
        self._folders: list[_Watched] = []
        self._observer: BaseObserver | None = None
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def wake(self) -> None:
        """There may be something to do."""
        self.wakened.set()

    def start(self, mirrors: Sequence[Mirror]) -> None:
        """Watch, then scan once for what was there before: nothing falls in between."""
        from watchdog.observers.inotify import InotifyObserver

        _tame_watchdog()
        _live.add(self)
        self._observer = InotifyObserver()
        self._observer.start()
        self._folders = [_Watched(mirror, self._observer, self.wake) for mirror in mirrors]
        self._thread.start()

    def scan_all(self) -> None:
        """Events were lost: look at everything."""
        for folder in self._folders:
            folder.ask_scan("")

    def stop(self) -> None:
        """End the watching; uploads in progress go on."""
        self._stopping = True
        self.wake()
        if self._thread.ident is not None:
            self._thread.join()
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
            self._observer = None
        _live.discard(self)

    def _run(self) -> None:
        while not self._stopping:
            self.wakened.clear()
            try:
                due = [time.monotonic() + POLL_S]
                for folder in self._folders:
                    folder.scan_if_asked()
                    if (next_due := folder.mirror.pump()) is not None:
                        due.append(next_due)
            except CanceledTransfer:
                return
            except Exception:
                log.exception("the watcher met an unexpected error and goes on")
                due = [time.monotonic() + POLL_S]
            # a look that is overdue waits for a place among the uploads, whose ends wake us
            self.wakened.wait(max(min(due) - time.monotonic(), 0.01))


class _Watched:
    """One watched folder."""

    def __init__(self, mirror: Mirror, observer: BaseObserver, wake: Callable[[], None]) -> None:
        self.mirror = mirror
        self._observer = observer
        self._wake = wake
        self._watch: ObservedWatch | None = None
        self._remote = False
        self._identity: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self._asked = {""}
        self._next_scan = 0.0

    def ask_scan(self, below: str) -> None:
        """Have the watcher's thread scan a folder (empty: all)."""
        with self._lock:
            self._asked.add(below)
        self._wake()

    def scan_if_asked(self) -> None:
        """Scan what was asked for, or everything when it is time."""
        self._rewatch()
        began = time.monotonic()
        with self._lock:
            asked, self._asked = self._asked, set()
        if began >= self._next_scan or "" in asked:
            asked = {""}
        for below in asked:
            self.mirror.scan(below)
        if "" in asked:
            ended = time.monotonic()
            period = RESCAN_S if self._watch is not None and not self._remote else POLL_S
            self._next_scan = ended + max(period, SCAN_SHARE * (ended - began))

    def _rewatch(self) -> None:
        """Watch the folder that is there now, if it is another one than before."""
        root = self.mirror.root
        try:
            status = None if root.is_symlink() else root.stat()
        except OSError:
            status = None
        identity = None if status is None else (status.st_dev, status.st_ino)
        if identity == self._identity:
            return
        if self._watch is not None:
            self._observer.unschedule(self._watch)
            self._watch = None
        self._identity = identity
        self._remote = is_network_mount(str(root))
        self._asked.add("")
        if identity is None:
            return
        from watchdog import events

        filtered = [
            events.FileClosedEvent,
            events.FileCreatedEvent,
            events.FileMovedEvent,
            events.FileDeletedEvent,
            events.DirCreatedEvent,
            events.DirMovedEvent,
            events.DirDeletedEvent,
        ]
        try:
            self._watch = self._observer.schedule(
                _handler(self), str(root), recursive=True, event_filter=filtered
            )
        except OSError as error:  # a limit on watches or instances, or a folder that vanished again
            log.warning("the folder is polled: it cannot be watched", path=str(root), error=str(error))


def _handler(folder: _Watched) -> FileSystemEventHandler:
    """What turns the events of one folder into names to look at."""
    from watchdog.events import FileSystemEventHandler

    root = str(folder.mirror.root)

    def name_of(path: bytes | str) -> str | None:
        text = os.fsdecode(path)
        return os.path.relpath(text, root) if text.startswith(root + os.sep) else None

    class Handler(FileSystemEventHandler):
        def dispatch(self, event: FileSystemEvent) -> None:
            for path in (
                event.dest_path,
                event.src_path,
            ):  # the new name first: it is stored before the old one goes
                name = name_of(path) if path else None
                if name is None:
                    continue
                if not event.is_directory:
                    folder.mirror.touch(name)
                    continue
                for known in folder.mirror.tracker.known_names(name):
                    folder.mirror.touch(known)
                folder.ask_scan(name)

    return Handler()


_live: weakref.WeakSet[Watcher] = weakref.WeakSet()


class _OverflowListener(logging.Handler):
    """watchdog mends its watches when the kernel's queue overflows; the lost events are only in its log."""

    def emit(self, record: logging.LogRecord) -> None:
        if "overflow" in record.getMessage().lower():
            for watcher in list(_live):
                watcher.scan_all()


def _tame_watchdog() -> None:
    # It warns, at length, of every folder that it finds both by its event and by its own look.
    warnings.filterwarnings("ignore", message="Callback with id", category=RuntimeWarning, module="watchdog")
    logger = logging.getLogger("watchdog")
    if not any(isinstance(handler, _OverflowListener) for handler in logger.handlers):
        logger.addHandler(_OverflowListener(logging.WARNING))
        logger.setLevel(logging.WARNING)
