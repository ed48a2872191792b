"""What has changed in one watched folder, what is being stored of it, and what comes next.

No input and no output: paths are names relative to the folder, times are seconds of a monotonic clock that
the caller passes in. Every name is in at most one of two states:

* *dirty*: something happened to it; it is looked at again when it is due;
* *active*: one look at it, or one upload or deletion, is in progress. Whatever happens to it meanwhile makes
  it dirty again when that ends, so there is never more than one at a time and one more follows a change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from kelpie_worker.sync.tree import Snapshot


@dataclass(slots=True)
class Change:
    """A name to be looked at."""

    sequence: int  # of the first event since the last look that ended well
    first: float
    due: float
    seen: Snapshot | None = None  # the version at the last look, for files whose writer keeps them open
    seen_at: float = 0.0
    tries: int = 0  # that failed in a row
    again: bool = False  # something happened while the name was active


class Tracker:
    """The state of one folder. Safe from any thread.

    ``debounce_s``: a name whose last upload began less than this ago waits for quiet of this length;
    ``max_wait_s``: but no longer than this after its first event. A first change is due at once.
    """

    def __init__(self, *, debounce_s: float, max_wait_s: float, wake: Callable[[], None]) -> None:
        self._debounce_s = debounce_s
        self._max_wait_s = max(debounce_s, max_wait_s)
        self._wake = wake
        self._lock = threading.RLock()
        self._sequence = 0
        self._dirty: dict[str, Change] = {}
        self._active: dict[str, Change] = {}
        self._begun: dict[str, float] = {}  # when the last upload of a name began, while that matters
        self._deletions: dict[str, int] = {}  # vanished names, and the sequence when that was noticed
        self._known: dict[str, Snapshot] = {}  # the versions that need no upload
        self._owned: set[str] = set()  # names whose objects this job stored or fetched: it may delete them
        self._failures: dict[str, str] = {}

    # ---- what is in the bucket

    def adopt(self, name: str, snapshot: Snapshot, *, owned: bool) -> None:
        """This version needs no upload; ``owned``: its object follows the file when that is deleted."""
        with self._lock:
            self._known[name] = snapshot
            if owned:
                self._owned.add(name)

    def known(self, name: str) -> Snapshot | None:
        """The version that needs no upload."""
        with self._lock:
            return self._known.get(name)

    def known_names(self, below: str = "") -> list[str]:
        """Every known name, or those in a folder."""
        with self._lock:
            return [
                name for name in self._known if not below or name == below or name.startswith(below + "/")
            ]

    # ---- events

    def touch(self, name: str, now: float) -> None:
        """Something may have happened to the name."""
        with self._lock:
            if name in self._active:
                self._active[name].again = True
                return
            change = self._dirty.get(name)
            if change is not None:
                if change.due > now and not change.tries:
                    change.due = min(now + self._debounce_s, change.first + self._max_wait_s)
                return
            self._sequence += 1
            recent = now - self._begun.get(name, float("-inf")) < self._debounce_s
            self._dirty[name] = Change(self._sequence, now, now + self._debounce_s if recent else now)
        self._wake()

    def expedite(self) -> None:
        """Everything is due now."""
        with self._lock:
            for change in self._dirty.values():
                change.due = 0.0
                change.tries = 0

    # ---- work

    def take(self, now: float, limit: int) -> list[tuple[str, Change]]:
        """Names that are due, oldest first; each is active until `finish` or `postpone`."""
        with self._lock:
            for name in [name for name, begun in self._begun.items() if now - begun >= self._debounce_s]:
                del self._begun[name]
            room = max(0, limit - len(self._active))
            due = sorted(
                (each for each in self._dirty.items() if each[1].due <= now),
                key=lambda each: each[1].sequence,
            )
            for name, change in due[:room]:
                del self._dirty[name]
                self._active[name] = change
            return due[:room]

    def next_due(self) -> float | None:
        """When to call `take` again; None when nothing is dirty."""
        with self._lock:
            return min((change.due for change in self._dirty.values()), default=None)

    def begun(self, name: str, now: float) -> None:
        """An upload of the active name begins."""
        with self._lock:
            self._begun[name] = now
            self._deletions.pop(name, None)

    def postpone(self, name: str, due: float) -> None:
        """The active name is not ready; it keeps its place in the order."""
        with self._lock:
            change = self._active.pop(name)
            change.due, change.again = due, False
            self._dirty[name] = change
        self._wake()

    def finish(self, name: str, now: float, *, again: bool = False) -> None:
        """What was done for the active name has ended; it is dirty again if anything happened meanwhile."""
        with self._lock:
            if self._active.pop(name).again or again:
                self.touch(name, now)
        self._wake()

    def stored(self, name: str, snapshot: Snapshot) -> None:
        """This version is in the bucket now."""
        with self._lock:
            self._known[name] = snapshot
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
            self._known.pop(name, None)
            self._failures.pop(name, None)
            if name in self._owned:
                self._deletions[name] = self._sequence

    def unchanged(self, name: str) -> None:
        """The active name has the file that is known: an earlier disappearance no longer counts."""
        with self._lock:
            self._deletions.pop(name, None)
            self._failures.pop(name, None)

    def take_deletions(self, limit: int) -> list[str]:
        """Vanished names before whose disappearance nothing is pending any more; each is active now."""
        with self._lock:
            pending = [change.sequence for each in (self._dirty, self._active) for change in each.values()]
            oldest = min(pending, default=self._sequence + 1)
            room = max(0, limit - len(self._active))
            ready = [
                name
                for name, sequence in self._deletions.items()
                if sequence < oldest and name not in self._dirty and name not in self._active
            ][:room]
            for name in ready:
                del self._deletions[name]
                self._sequence += 1
                self._active[name] = Change(self._sequence, 0.0, 0.0)
            return ready

    def deleted(self, name: str) -> None:
        """The object of the name is gone."""
        with self._lock:
            self._owned.discard(name)

    # ---- the end

    @property
    def idle(self) -> bool:
        """Nothing is dirty, active or waiting to be deleted."""
        with self._lock:
            return not (self._dirty or self._active or self._deletions)
