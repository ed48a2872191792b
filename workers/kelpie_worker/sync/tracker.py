"""What has changed in one watched folder, what is being stored of it, and what comes next.

No input and no output: paths are names relative to the folder, times are seconds of a monotonic clock that
the caller passes in. Every name is in at most one of two states:

* *dirty*: something happened to it; it is looked at again when it is due;
* *active*: one look at it, or one upload or deletion, is in progress. Whatever happens to it meanwhile makes
  it dirty again when that ends, so there is never more than one at a time and one more follows a change.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from dataclasses import dataclass

from kelpie_worker.sync.backlog import Backlog
from kelpie_worker.sync.names import NameIndex
from kelpie_worker.sync.tree import Snapshot


@dataclass(slots=True)
class Change:
    """A name to be looked at."""

    sequence: int  # of the first event since the last look that ended well
    first: float
    due: float
    size: int = 0  # bytes of the file when it was last seen
    collecting: bool = False  # due when the name has been quiet, rather than when it is to be looked at again
    seen: Snapshot | None = None  # the version at the last look, for files whose writer keeps them open
    seen_at: float = 0.0
    tries: int = 0  # that failed in a row
    rewrites: int = 0  # while it was uploaded, in a row
    again: bool = False  # something happened while the name was active


class Tracker:
    """The state of one folder. Safe from any thread. No call takes longer for a longer backlog, but for a
    logarithm: in a storm each is made for every file.

    ``debounce_s``: a name whose last upload began less than this ago waits for quiet of this length;
    ``max_wait_s``: but no longer than this after its first event. A first change is due at once.
    ``window``: names that are active at once, at most.
    """

    def __init__(
        self, *, debounce_s: float, max_wait_s: float, window: int = 32, wake: Callable[[], None]
    ) -> None:
        self._debounce_s = debounce_s
        self._max_wait_s = max(debounce_s, max_wait_s)
        self._window = window
        self._wake = wake
        self._lock = threading.RLock()
        self._sequence = 0
        self._dirty: dict[str, Change] = {}
        self._active: dict[str, Change] = {}
        # Heaps over the two. Entries are not removed when a change moves on, but passed over at the top.
        self._later: list[tuple[float, int, str]] = []  # (due, sequence, name) of dirty names
        self._ready: list[tuple[int, str]] = []  # (sequence, name) of dirty names that were found due
        self._order: list[tuple[int, str]] = []  # (sequence, name) of dirty and active names
        self._bytes = 0  # of dirty and active names
        self._begun: dict[str, float] = {}  # when the last upload of a name began, oldest first, while recent
        self._deletions: dict[str, int] = {}  # vanished names, and the sequence when that was noticed
        self._known: dict[str, Snapshot] = {}  # the versions that need no upload
        self._index = NameIndex()  # of the known names
        self._owned: set[str] = set()  # names whose objects this job stored or fetched: it may delete them
        self._failures: dict[str, str] = {}

    # ---- what is in the bucket

    def adopt(self, name: str, snapshot: Snapshot, *, owned: bool) -> None:
        """This version needs no upload; ``owned``: its object follows the file when that is deleted."""
        with self._lock:
            self._know(name, snapshot)
            if owned:
                self._owned.add(name)

    def known(self, name: str) -> Snapshot | None:
        """The version that needs no upload."""
        with self._lock:
            return self._known.get(name)

    def known_names(self, below: str = "") -> list[str]:
        """Every known name, or that name and those in the folder of that name."""
        with self._lock:
            return self._index.below(below)

    def _know(self, name: str, snapshot: Snapshot) -> None:
        self._known[name] = snapshot
        self._index.add(name)

    # ---- events

    def touch(self, name: str, now: float, *, closed: bool = False, size: int = 0) -> None:
        """Something may have happened to the name; ``closed``: a writer has just closed the file."""
        with self._lock:
            change = self._active.get(name)
            if change is not None:
                change.again = True
                self._resize(change, size)  # the version that follows counts, not the one on its way
                return
            change = self._dirty.get(name)
            if change is None:
                self._sequence += 1
                change = Change(self._sequence, now, now, size, collecting=self._recent(name, now))
                self._bytes += size
                heapq.heappush(self._order, (change.sequence, name))
                self._put(name, change, self._quiet(change, now))
            else:
                self._resize(change, size)
                if change.due > now and not change.tries and (closed or change.collecting):
                    if not change.collecting:  # it waited for its writer
                        change.collecting = self._recent(name, now)
                    self._put(name, change, self._quiet(change, now))
        self._wake()

    def expedite(self) -> None:
        """Everything is due now."""
        with self._lock:
            for name, change in self._dirty.items():
                change.tries = change.rewrites = 0
                self._later.append((0.0, change.sequence, name))
                change.due = 0.0
            heapq.heapify(self._later)

    def _recent(self, name: str, now: float) -> bool:
        return now - self._begun.get(name, float("-inf")) < self._debounce_s

    def _quiet(self, change: Change, now: float) -> float:
        """When a change that was touched now is due."""
        return min(now + self._debounce_s, change.first + self._max_wait_s) if change.collecting else now

    def _put(self, name: str, change: Change, due: float) -> None:
        """Make the name dirty, or due at another time."""
        change.due = due
        self._dirty[name] = change
        heapq.heappush(self._later, (change.due, change.sequence, name))

    def _resize(self, change: Change, size: int) -> None:
        self._bytes += size - change.size
        change.size = size

    # ---- work

    def take(self, now: float) -> list[tuple[str, Change]]:
        """Names that are due, oldest first; each is active until `finish` or `postpone`."""
        with self._lock:
            while self._begun and now - next(iter(self._begun.values())) >= self._debounce_s:
                del self._begun[next(iter(self._begun))]
            while self._later and self._later[0][0] <= now:
                due, sequence, name = heapq.heappop(self._later)
                change = self._dirty.get(name)
                if change is not None and (change.due, change.sequence) == (due, sequence):
                    heapq.heappush(self._ready, (sequence, name))
            taken: list[tuple[str, Change]] = []
            while self._ready and len(self._active) < self._window:
                sequence, name = heapq.heappop(self._ready)
                change = self._dirty.get(name)
                if change is not None and change.sequence == sequence and change.due <= now:
                    self._active[name] = self._dirty.pop(name)
                    taken.append((name, change))
            return taken

    def next_due(self) -> float | None:
        """When to call `take` again; None when that is after something has ended."""
        with self._lock:
            if len(self._active) >= self._window:
                return None
            if self._ready:
                return 0.0
            while self._later:
                due, sequence, name = self._later[0]
                change = self._dirty.get(name)
                if change is not None and (change.due, change.sequence) == (due, sequence):
                    return due
                heapq.heappop(self._later)
            return None

    def begun(self, name: str, size: int, now: float) -> None:
        """An upload of the active name, of so many bytes, begins."""
        with self._lock:
            self._resize(self._active[name], size)
            self._begun.pop(name, None)  # so that the oldest stay first
            self._begun[name] = now
            self._deletions.pop(name, None)

    def postpone(self, name: str, now: float, pause_s: float) -> None:
        """The active name is not ready; it keeps its place in the order."""
        with self._lock:
            change = self._active.pop(name)
            due = now + pause_s
            change.collecting = False
            if change.again and not change.tries:  # perhaps what it is postponed for has happened already
                change.collecting = self._recent(name, now)
                due = min(due, self._quiet(change, now))
            change.again = False
            self._put(name, change, due)
        self._wake()

    def finish(self, name: str, now: float, *, again: bool = False) -> None:
        """What was done for the active name has ended; it is dirty again if anything happened meanwhile."""
        with self._lock:
            change = self._active.pop(name)
            self._bytes -= change.size
            if change.again or again:
                self.touch(name, now, size=change.size)
        self._wake()

    def stored(self, name: str, snapshot: Snapshot) -> None:
        """This version is in the bucket now."""
        with self._lock:
            self._know(name, snapshot)
            self._owned.add(name)
            self._failures.pop(name, None)

    def failed(self, name: str, why: str) -> None:
        """The active name could not be brought up to date; a later success forgets it."""
        with self._lock:
            self._failures[name] = why

    @property
    def failures(self) -> dict[str, str]:
        """What could not be stored, by name."""
        with self._lock:
            return dict(self._failures)

    # ---- deletions

    def vanished(self, name: str) -> None:
        """The active name has no file: its object goes too, if it is ours, after what was pending."""
        with self._lock:
            if self._known.pop(name, None) is not None:
                self._index.discard(name)
            self._failures.pop(name, None)
            if name in self._owned:
                self._deletions.pop(name, None)  # so that the earliest stay first
                self._deletions[name] = self._sequence

    def unchanged(self, name: str) -> None:
        """The active name has the file that is known: an earlier disappearance no longer counts."""
        with self._lock:
            self._deletions.pop(name, None)
            self._failures.pop(name, None)

    def take_deletions(self) -> list[str]:
        """Vanished names before whose disappearance nothing is pending any more; each is active now."""
        with self._lock:
            pending = self._oldest()
            oldest = self._sequence + 1 if pending is None else pending.sequence
            ready: list[str] = []
            for name, sequence in self._deletions.items():
                if sequence >= oldest or len(self._active) + len(ready) >= self._window:
                    break
                if name not in self._dirty and name not in self._active:
                    ready.append(name)
            for name in ready:
                del self._deletions[name]
                self._sequence += 1
                self._active[name] = Change(self._sequence, 0.0, 0.0)
            return ready

    def deleted(self, name: str) -> None:
        """The object of the name is gone."""
        with self._lock:
            self._owned.discard(name)

    # ---- the whole

    def _oldest(self) -> Change | None:
        """The change, dirty or active, that has waited longest."""
        while self._order:
            sequence, name = self._order[0]
            change = self._dirty.get(name) or self._active.get(name)
            if change is not None and change.sequence == sequence:
                return change
            heapq.heappop(self._order)
        return None

    @property
    def backlog(self) -> Backlog:
        """The changes that are not in the bucket yet; the deletion of an object is one too."""
        with self._lock:
            oldest = self._oldest()
            return Backlog(
                files=len(self._dirty) + len(self._active) + len(self._deletions),
                bytes=self._bytes,
                oldest=None if oldest is None else oldest.first,
            )

    @property
    def idle(self) -> bool:
        """Nothing is dirty, active or waiting to be deleted."""
        with self._lock:
            return not (self._dirty or self._active or self._deletions)
