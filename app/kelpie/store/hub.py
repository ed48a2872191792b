"""Followers of events: one reader per process tells all of them, at nearly no cost for those that wait."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from itertools import takewhile

import redis
import structlog

from kelpie.errors import TooFastError, UnavailableError
from kelpie.store import keys
from kelpie.store.connection import translated
from kelpie.store.events import BEGINNING, START, PlacedEvent, Position
from kelpie.store.records import Event, Queue
from kelpie.store.store import Store

INTERVAL_S = 0.25  # between two reads, where few streams are followed
PER_STREAM_S = 0.0001  # added for each: a reader of many streams must not eat the processor
MAX_INTERVAL_S = 5.0
BATCH = 2000  # events of one stream per read
BUFFER = 10_000  # events that wait for one follower; a slower one is disconnected
RETRY_S = 15.0  # after which a stream whose client has gone is seen to have ended
AHEAD_MS = 2000  # an id further ahead than this is that of a clock that went back

_LAST_SEQUENCE = 2**64 - 1

log = structlog.get_logger(__name__)


class Follower:
    """Who wants to hear what happens from now on: to one job, to a user's jobs, or to all.

    What happened before ``since_ms`` is not told: read it from the store. That is earlier than when it came:
    it also hears what the others had not heard by then.
    """

    def __init__(
        self,
        hub: EventHub,
        user_id: str | None,
        job_id: str | None,
        owner: str | None,
        disconnect: Callable[[], None],
    ) -> None:
        self._hub = hub
        self.owner = owner
        self._news = threading.Event()
        self._buffer: deque[tuple[Position, PlacedEvent]] = deque()
        self._disconnect = disconnect
        self.user_id = user_id
        self.job_id = job_id
        self.queues: tuple[Queue, ...] = ()  # that were there when it came
        self.since_ms = 0
        self.came_ms = 0  # the server's time when it came
        self.position = BEGINNING  # after an empty take: everything before it was told and taken
        self.ended = False  # by the hub: it was too slow, or the process stops

    def take(self, timeout_s: float) -> list[tuple[Position, PlacedEvent]]:
        """Events, each with the position to resume from; none after ``timeout_s`` seconds, or at the end."""
        self._news.wait(timeout_s)
        with self._hub.lock:
            taken = list(self._buffer)
            self._buffer.clear()
            if not self.ended:
                self._news.clear()
            if not taken:
                self.position = Position(self._hub.safe_ms, 0, 0)
            return taken

    def close(self) -> None:
        """Hear no more."""
        self._hub.leave(self)

    def tell(self, position: Position, event: PlacedEvent) -> None:
        """Something happened; called by the hub under its lock."""
        if self.ended:
            return
        if len(self._buffer) >= BUFFER:
            self.end()
            self._buffer.clear()  # it resumes after what it took
            self._disconnect()
            return
        self._buffer.append((position, event))
        self._news.set()

    def end(self) -> None:
        """It hears no more."""
        self.ended = True
        self._news.set()


class EventHub:
    """All followers of one process.

    One thread reads the streams that somebody follows. Events are told in the order of their positions: those
    of the current millisecond wait for the next read, because another queue may still write an earlier one.
    Uses threads and locks only, so it runs on greenlets too where threading is patched. Make it after a fork.
    """

    def __init__(self, store: Store) -> None:
        self.lock = threading.Lock()
        self.safe_ms = 0  # of all that is followed, everything before it was told
        self._store = store
        self._closed = threading.Event()
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None
        self._followers: set[Follower] = set()
        self._by_user: dict[str | None, set[Follower]] = {}
        self._by_job: dict[str, set[Follower]] = {}
        self._owned: Counter[str] = Counter()  # how many followers each owner has
        self._followed: dict[Queue, int] = {}  # how many followers each stream has
        self._cursors: dict[Queue, str] = {}  # the last event that was told; of the same queues
        self._told_ms = 0  # what happened since then is told to who comes now; the latest time of a read
        self._read_ms = 0  # the server's time at the last read: less than that when its clock went back
        self._epoch = 0  # counts the times that reading began anew
        self._last_number = 0  # of the queues that are known

    def follow(
        self,
        user_id: str | None,
        job: tuple[Queue, str] | None = None,
        *,
        owner: str | None = None,
        limit: int = 0,
        disconnect: Callable[[], None] = lambda: None,
    ) -> Follower:
        """A new follower of a user (None: of all) or of one job. Raises UnavailableError.

        Raises TooFastError when its ``owner`` has ``limit`` of them: each may hold ``BUFFER`` events.
        ``disconnect`` is called, under a lock, when it lags too far behind.
        """
        follower = Follower(self, user_id, None if job is None else job[1], owner, disconnect)
        with self.lock:
            if owner is not None and self._owned[owner] >= limit:
                raise TooFastError(
                    f"You have {limit} event streams open here; close some, or come again.",
                    retry_after_s=RETRY_S,
                )
            now_ms = self._store.events.now_ms()
            if not self._followers:  # nobody has read for long
                self._epoch += 1
                self._told_ms = self._read_ms = self.safe_ms = now_ms
                self._last_number = self._count_queues()
            since = f"{min(self._told_ms, self._read_ms) - 1}-{_LAST_SEQUENCE}"
            # The first event of a new queue came after the last read, unless the clock went back.
            self._find_new_queues(since if now_ms >= self._told_ms else START)
            queues = [job[0]] if job is not None else self._store.queues(user_id)
            # A newer one is found by the next read, from its first event on.
            follower.queues = tuple(queue for queue in queues if queue.number <= self._last_number)
            follower.since_ms = self._told_ms
            follower.came_ms = now_ms
            self._followers.add(follower)
            if owner is not None:
                self._owned[owner] += 1
            self._place(follower).add(follower)
            for queue in follower.queues:
                self._watch(queue, since)
            follower.ended = self._closed.is_set()
            self._start()
        self._wanted.set()
        return follower

    def leave(self, follower: Follower) -> None:
        """The follower hears no more; leaving twice is harmless."""
        with self.lock:
            if follower not in self._followers:
                return
            self._followers.discard(follower)
            if follower.owner is not None:
                self._owned[follower.owner] -= 1
                if not self._owned[follower.owner]:
                    del self._owned[follower.owner]
            self._place(follower).discard(follower)
            if not self._place(follower):
                if follower.job_id is None:
                    del self._by_user[follower.user_id]
                else:
                    del self._by_job[follower.job_id]
            for queue in follower.queues:
                self._followed[queue] -= 1
                if not self._followed[queue]:
                    del self._followed[queue], self._cursors[queue]

    def count(self) -> int:
        """How many followers there are."""
        with self.lock:
            return len(self._followers)

    def stop_following(self) -> None:
        """End all followers at once, and those to come."""
        self._closed.set()
        self._wanted.set()
        with self.lock:
            for follower in self._followers:
                follower.end()

    def close(self) -> None:
        """End all followers, then the thread; returns within about a second."""
        self.stop_following()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _place(self, follower: Follower) -> set[Follower]:
        if follower.job_id is not None:
            return self._by_job.setdefault(follower.job_id, set())
        return self._by_user.setdefault(follower.user_id, set())

    def _watch(self, queue: Queue, cursor: str) -> None:
        self._followed[queue] = self._followed.get(queue, 0) + 1
        self._cursors.setdefault(queue, cursor)

    def _count_queues(self) -> int:
        with translated():
            return int(self._store.redis.hlen(keys.QUEUE_NAMES))

    def _find_new_queues(self, since: str) -> None:
        """Follow queues that appeared since the last look."""
        while (queue := self._store.queue(self._last_number + 1)) is not None:
            self._last_number = queue.number
            for user_id in (queue.user_id, None):
                for follower in self._by_user.get(user_id, ()):
                    follower.queues = (*follower.queues, queue)
                    self._watch(queue, since)

    def _start(self) -> None:
        if self._thread is None and not self._closed.is_set():
            self._thread = threading.Thread(target=self._run, name="kelpie-events", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        failing = False
        while not self._closed.is_set():
            pause_s = INTERVAL_S
            try:
                streams = self._tick()
            except (UnavailableError, redis.RedisError) as error:
                if not failing:
                    log.warning("followers of events wait for redis", error=type(error).__name__)
                failing, pause_s = True, 4 * INTERVAL_S
            except Exception:
                log.exception("events were not told")
                pause_s = 4 * INTERVAL_S
            else:
                failing = False
                pause_s = min(MAX_INTERVAL_S, INTERVAL_S + PER_STREAM_S * streams)
                self._wait_for_followers()
            self._closed.wait(pause_s)

    def _wait_for_followers(self) -> None:
        with self.lock:
            if not self._followers:
                self._wanted.clear()
        self._wanted.wait()

    def _tick(self) -> int:
        """Read once and tell; returns how many streams are followed."""
        with self.lock:
            if not self._followers:
                return 0
            # The time comes first: of what is older, every stream that is found now shows everything.
            read_ms = self._store.events.now_ms()
            self._find_new_queues(START)
            cursors, epoch = dict(self._cursors), self._epoch
        news = self._store.events.read_news(cursors, BATCH) if cursors else {}
        with self.lock:
            if epoch != self._epoch:  # all have left meanwhile, and others came
                return len(cursors)
            self._tell(news, cursors, read_ms)
            self._read_ms = read_ms
            self._told_ms = max(self._told_ms, read_ms)
            return len(cursors)

    def _tell(self, news: dict[Queue, list[Event]], cursors: dict[Queue, str], read_ms: int) -> None:
        ready: list[PlacedEvent] = []
        safe = Position(read_ms, 0, 0)
        for queue, events in news.items():
            if self._cursors.get(queue) != cursors[queue]:
                continue  # left, or left and followed again, meanwhile
            placed = [PlacedEvent(queue, event) for event in events]
            told = list(takewhile(lambda one: not read_ms <= one.position.ms < read_ms + AHEAD_MS, placed))
            if not told:
                continue
            self._cursors[queue] = told[-1].event.id
            ready += told
            if len(events) == BATCH:  # there may be more: what others wrote later is no place to resume
                safe = min(safe, Position(told[-1].position.ms, 0, 0))
        self.safe_ms = safe.ms
        for one in sorted(ready, key=lambda one: one.position):
            position = min(one.position, safe)
            for user_id in (one.queue.user_id, None):
                for follower in self._by_user.get(user_id, ()):
                    follower.tell(position, one)
            for follower in self._by_job.get(one.event.job_id, ()):
                follower.tell(position, one)
