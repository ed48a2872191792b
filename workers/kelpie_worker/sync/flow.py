"""Transfers written as plain sequential generators, run on the pool without ever blocking one of its threads.

A flow yields a :class:`Batch` of calls and receives their results, in order, when all have ended; if one
failed, the failure is raised at the ``yield`` after the others in flight have ended. Between two yields the
flow runs on a thread of the pool like any other task.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from kelpie_worker.sync.pool import Lane


@dataclass(frozen=True, slots=True)
class Batch:
    """Calls that may run side by side, up to ``width`` at once."""

    calls: Sequence[Callable[[], Any]]
    width: int


Flow: TypeAlias = Generator[Batch, list[Any], Any]
Done: TypeAlias = Callable[[Any, BaseException | None], None]


def start(lane: Lane, flow: Flow, done: Done) -> None:
    """Run the flow; ``done(result, error)`` is called on a thread of the pool when it has ended."""
    _Runner(lane, flow, done).begin()


def run_all(lane: Lane, flows: Iterable[Flow], *, width: int) -> None:
    """Run the flows, up to ``width`` at once, and wait. After a failure no more are started; it is raised
    when those in progress have ended. ``flows`` is gone through on threads of the pool, by one at a time."""
    _Crowd(lane, flows, width).run()


class _Crowd:
    """Many flows: the end of one begins the next, so that the caller's thread need not wake in between."""

    def __init__(self, lane: Lane, flows: Iterable[Flow], width: int) -> None:
        self._lane = lane
        self._flows = iter(flows)
        self._width = width
        self._lock = threading.Lock()
        self._running = 0
        self._failure: BaseException | None = None
        self._ended = threading.Event()

    def run(self) -> None:
        with self._lock:
            for _ in range(self._width):
                if not self._begin_next():
                    break
            if not self._running:
                self._ended.set()
        self._ended.wait()
        if self._failure is not None:
            raise self._failure

    def _begin_next(self) -> bool:
        """Begin one flow, holding the lock; False when there is none."""
        if self._failure is None:
            try:
                flow = next(self._flows)
            except StopIteration:
                return False
            except BaseException as error:  # noqa: BLE001  (raised in `run`)
                self._failure = error
                return False
            self._running += 1
            start(self._lane, flow, self._one_ended)
            return True
        return False

    def _one_ended(self, _: Any, error: BaseException | None) -> None:
        with self._lock:
            self._running -= 1
            self._failure = self._failure or error
            if not self._begin_next() and not self._running:
                self._ended.set()


class _Runner:
    """Drives one flow."""

    def __init__(self, lane: Lane, flow: Flow, done: Done) -> None:
        self._lane = lane
        self._flow = flow
        self._done = done
        self._lock = threading.Lock()

    def begin(self) -> None:
        self._lane.submit(lambda: self._advance(lambda: next(self._flow)))

    def _advance(self, step: Callable[[], Batch]) -> None:
        try:
            batch = step()
        except StopIteration as stop:
            self._done(stop.value, None)
        except BaseException as error:  # noqa: BLE001  (whoever waits is told)
            self._done(None, error)
        else:
            self._dispatch(batch)

    def _dispatch(self, batch: Batch) -> None:
        self._calls = batch.calls
        self._results: list[Any] = [None] * len(batch.calls)
        self._failure: BaseException | None = None
        self._next = 0
        self._running = 0
        if not batch.calls:
            self._resume()
            return
        with self._lock:
            for _ in range(min(batch.width, len(batch.calls))):
                self._submit_next()

    def _submit_next(self) -> None:
        index = self._next
        self._next += 1
        self._running += 1
        self._lane.submit(lambda: self._call(index))

    def _call(self, index: int) -> None:
        failure: BaseException | None = None
        try:
            if self._failure is None:
                self._results[index] = self._calls[index]()
        except BaseException as error:  # noqa: BLE001  (raised in the flow)
            failure = error
        with self._lock:
            self._running -= 1
            self._failure = self._failure or failure
            if self._failure is None and self._next < len(self._calls):
                self._submit_next()
            ended = self._running == 0
        if ended:
            self._resume()

    def _resume(self) -> None:
        failure, results = self._failure, self._results
        if failure is not None:
            self._lane.submit(lambda: self._advance(lambda: self._flow.throw(failure)))
        else:
            self._lane.submit(lambda: self._advance(lambda: self._flow.send(results)))
