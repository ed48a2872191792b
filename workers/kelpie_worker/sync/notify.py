"""inotify through watchdog: events as names to look at, and what watchdog keeps to itself.

It only logs that the kernel's queue overflowed, and says nothing of folders that could not be watched for the
limit on watches. The one is heard in its log, the other counted in the kernel's own list.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent, FileSystemEventHandler
    from watchdog.observers.api import BaseObserver, ObservedWatch

MOVE_PAIRING_S = 0.002
"""How long watchdog may hold back all events behind a file that left the folder, in the hope that it appears
under another name. Its own half second would delay checkpoints, and here every event is but a reason to look.
"""


class Listener(Protocol):
    """Who is told of one watched folder. Called from watchdog's threads: must be quick."""

    def file_event(self, name: str, *, closed: bool) -> None:
        """Something happened to the file; ``closed``: a writer has closed it, or it was renamed to this."""

    def folder_event(self, name: str) -> None:
        """A folder came, went or was renamed; what it holds may have no events of its own."""

    def root_gone(self) -> None:
        """The watched folder itself was deleted: nothing is heard of its successor."""


def start_observer(on_overflow: Callable[[], None]) -> BaseObserver:
    """A running observer. ``on_overflow`` is called, as long as its owner lives, when events of any observer
    were lost. OSError when the limit on inotify instances is reached."""
    from watchdog.observers.inotify import InotifyObserver

    with contextlib.suppress(ImportError):  # watchdog 6 has another name for it
        from watchdog.observers.inotify_move_event_grouper import InotifyMoveEventGrouper

        InotifyMoveEventGrouper.delay = MOVE_PAIRING_S
    # It warns, at length, of every folder that it finds both by its event and by its own look.
    warnings.filterwarnings("ignore", message="Callback with id", category=RuntimeWarning, module="watchdog")
    logger = logging.getLogger("watchdog")
    if not any(isinstance(handler, _OverflowListener) for handler in logger.handlers):
        logger.addHandler(_OverflowListener(logging.WARNING))
        logger.setLevel(logging.WARNING)
    observer = InotifyObserver()
    observer.start()
    _on_overflow.add(weakref.WeakMethod(on_overflow))
    return observer


def watch(observer: BaseObserver, root: str, listener: Listener) -> ObservedWatch:
    """Have the listener told of the folder and everything below. OSError when it cannot be watched."""
    from watchdog import events

    filtered: list[type[FileSystemEvent]] = [
        events.FileClosedEvent,
        events.FileCreatedEvent,
        events.FileMovedEvent,
        events.FileDeletedEvent,
        events.DirCreatedEvent,
        events.DirMovedEvent,
        events.DirDeletedEvent,
    ]
    return observer.schedule(_handler(root, listener), root, recursive=True, event_filter=filtered)


def watched_folders() -> int | None:
    """How many folders the kernel watches for this process; None when it does not say."""
    count = 0
    try:
        for descriptor in Path("/proc/self/fd").iterdir():
            try:
                if str(descriptor.readlink()) == "anon_inode:inotify":
                    told = Path("/proc/self/fdinfo", descriptor.name).read_text()
                    count += sum(line.startswith("inotify wd:") for line in told.splitlines())
            except FileNotFoundError:  # the descriptor of this very look
                continue
    except OSError:
        return None
    return count


def _handler(root: str, listener: Listener) -> FileSystemEventHandler:
    from watchdog.events import FileClosedEvent, FileMovedEvent, FileSystemEventHandler

    prefix = root + os.sep

    class Handler(FileSystemEventHandler):
        def dispatch(self, event: FileSystemEvent) -> None:
            closed = isinstance(event, FileClosedEvent | FileMovedEvent)
            # the new name first: it is stored before the old one goes
            for path in (event.dest_path, event.src_path):
                text = os.fsdecode(path)
                if text.startswith(prefix):
                    if event.is_directory:
                        listener.folder_event(text[len(prefix) :])
                    else:
                        listener.file_event(text[len(prefix) :], closed=closed)
                elif text == root and event.is_directory:
                    listener.root_gone()

    return Handler()


_on_overflow: set[weakref.WeakMethod[Callable[[], None]]] = set()


class _OverflowListener(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if "overflow" in record.getMessage().lower():
            for reference in list(_on_overflow):
                tell = reference()
                if tell is None:
                    _on_overflow.discard(reference)
                else:
                    tell()
