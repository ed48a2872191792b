"""Notices what happens in the watched folders of one job while its command runs.

inotify says what to look at; every event only leads to a look at the name itself, so an event too many is
harmless. What inotify cannot say is found by scanning: a folder that appeared with files in it, a queue that
overflowed, symlinked folders, network mounts, a limit on watches, and a watched folder that the command
deleted and made anew.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import structlog

from kelpie_worker.sync import notify
from kelpie_worker.sync.errors import CanceledTransfer
from kelpie_worker.sync.gate import Gate
from kelpie_worker.sync.mirror import Mirror
from kelpie_worker.sync.writers import is_network_mount

if TYPE_CHECKING:
    from watchdog.observers.api import BaseObserver, ObservedWatch

log = structlog.get_logger(__name__)

RESCAN_S = 10.0
"""Between two scans of a folder that inotify watches."""
POLL_S = 1.0
"""Between two scans of a folder that it does not, and between two looks at the watched folders themselves."""
SCAN_SHARE = 20
"""Scanning takes at most one part in so many of the time, however large the folder."""
SHORTEST_PAUSE_S = 0.001
"""Events that come closer together are worked off together."""


class Watcher:
    """One thread that turns events and scans into uploads, for all ``during`` entries of a job."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.wakened = threading.Event()
        self._stopping = False
        self._folders: list[_Watched] = []
        self._observer: BaseObserver | None = None
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self._short = 0  # counts in a row that found folders without a watch

    def wake(self) -> None:
        """There may be something to do."""
        self.wakened.set()

    def start(self, mirrors: Sequence[Mirror]) -> None:
        """Watch, then scan once for what was there before: nothing falls in between."""
        try:
            self._observer = notify.start_observer(self.scan_all)
        except OSError as error:  # the limit on inotify instances of this user
            log.warning("all folders are polled: none can be watched", error=str(error))
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

    def _run(self) -> None:
        while not self._stopping:
            self.wakened.clear()
            try:
                due = [time.monotonic() + POLL_S]
                scanned = False
                for folder in self._folders:
                    scanned |= folder.scan_if_asked()
                if scanned:
                    self._count_watches()
                for folder in self._folders:
                    if (next_due := folder.mirror.pump()) is not None:
                        due.append(next_due)
            except CanceledTransfer:
                return
            except Exception:
                log.exception("the watcher met an unexpected error and goes on")
                due = [time.monotonic() + POLL_S]
            self.wakened.wait(max(min(due) - time.monotonic(), SHORTEST_PAUSE_S))

    def _count_watches(self) -> None:
        """Poll while the kernel watches fewer folders than there are."""
        watched = [folder for folder in self._folders if folder.watched]
        there = len(set[str]().union(*(folder.mirror.folders for folder in watched)))
        count = notify.watched_folders() if watched else None
        short = count is not None and count < there
        self._short = self._short + 1 if short else 0
        if self._short == 2:  # a folder made a moment ago is no shortage
            log.warning(
                "folders are polled: not all can be watched (see fs.inotify.max_user_watches)",
                folders=there,
                watched=count,
            )
        for folder in watched:
            folder.short = short


class _Watched:
    """One watched folder."""

    def __init__(self, mirror: Mirror, observer: BaseObserver | None, wake: Callable[[], None]) -> None:
        self.mirror = mirror
        self.short = False  # some folders in it are not watched
        self._observer = observer
        self._wake = wake
        self._watch: ObservedWatch | None = None
        self._remote = False
        self._refused = ""  # why it could not be watched at the last look
        self._identity: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self._asked = {""}
        self._scan_began, self._scan_ended = 0.0, 0.0
        self._next_look = 0.0  # at the folder itself

    @property
    def watched(self) -> bool:
        """Whether inotify tells of it."""
        return self._watch is not None

    # ---- what inotify says (see notify.Listener)

    def file_event(self, name: str, *, closed: bool) -> None:
        """Look at the file."""
        self.mirror.touch(name, closed=closed)

    def folder_event(self, name: str) -> None:
        """Look at all that was in the folder, and for what is."""
        for known in self.mirror.tracker.known_names(name):
            self.mirror.touch(known)
        self.ask_scan(name)

    def root_gone(self) -> None:
        """The next folder of this name may well have the same inode."""
        with self._lock:
            self._identity = None
            self._next_look = 0.0
        self._wake()

    def ask_scan(self, below: str) -> None:
        """Have the watcher's thread scan a folder (empty: all)."""
        with self._lock:
            self._asked.add(below)
        self._wake()

    # ---- what the watcher's thread does

    def scan_if_asked(self) -> bool:
        """Scan what was asked for, or everything when it is time; whether it was everything."""
        began = time.monotonic()
        if began >= self._next_look:
            self._next_look = began + POLL_S
            self._rewatch()
        with self._lock:
            asked, self._asked = self._asked, set()
        if "" in asked or self._scan_due(began):
            self.mirror.scan()
            self._scan_began, self._scan_ended = began, time.monotonic()
            return True
        done = "\0"
        for below in sorted(asked):
            if not below.startswith(done):  # folders in it were scanned with it
                self.mirror.scan(below)
                done = below + "/"
        return False

    def _scan_due(self, now: float) -> bool:
        period = POLL_S if not self.watched or self._remote or self.short else RESCAN_S
        took = self._scan_ended - self._scan_began
        return now >= self._scan_ended + max(period, SCAN_SHARE * took)

    def _rewatch(self) -> None:
        """Watch the folder that is there now, if it is another one than before."""
        root = self.mirror.root
        try:
            status = None if root.is_symlink() else root.stat()
        except OSError:
            status = None
        identity = None if status is None else (status.st_dev, status.st_ino)
        with self._lock:
            if identity == self._identity:
                return
            self._identity = identity
            self._asked.add("")
        if self._observer is None:
            return
        if self._watch is not None:
            self._observer.unschedule(self._watch)
            self._watch = None
        if identity is None:
            return
        self._remote = is_network_mount(str(root))  # then changes made elsewhere have no events
        try:
            self._watch = notify.watch(self._observer, str(root), self)
        except OSError as error:  # a limit on watches, or a folder that vanished again
            self._identity = None  # the next look tries anew
            if str(error) != self._refused:
                log.warning("the folder is polled: it cannot be watched", path=str(root), error=str(error))
            self._refused = str(error)
        else:
            self._refused = ""
