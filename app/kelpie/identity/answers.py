"""What a service answered, remembered: one question at a time per subject, and no waiting for ever."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import structlog

from kelpie.errors import UnavailableError

MAX_OPEN = 64
"""Questions of one kind that wait for an answer at the same time, at most."""

RETRY_S = 5.0
"""How long an older answer is used without asking again, after a question that failed."""

PATIENCE_S = 1.0
"""How long to wait for a new answer while an older one may be used: reports of nodes must not be late."""

T = TypeVar("T")

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Kept(Generic[T]):
    value: T
    asked: float  # when the question was last put, answered or not
    fresh_until: float
    usable_until: float  # while the service fails
    failing: bool = False


@dataclass(slots=True, eq=False)
class _Question(Generic[T]):
    """A question under way: whoever asks the same meanwhile waits for the same answer."""

    done: threading.Event = field(default_factory=threading.Event)
    value: T | None = None
    error: UnavailableError | None = None


class Answers(Generic[T]):
    """Answers of one kind, by subject; None is a refusal.

    A good answer is used for ``keep_s``, and for ``outage_s`` more while the service fails; a refusal for
    ``refusal_s``. Refusals have a room of their own, so that a flood of bad subjects pushes no good one out.
    Uses threads and locks only, so it also runs on greenlets where threading is patched.
    """

    def __init__(
        self,
        what: str,
        *,
        keep_s: float,
        wait_s: float,
        outage_s: float = 0.0,
        refusal_s: float = 0.0,
        capacity: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what  # names the service in errors
        self._keep_s = keep_s
        self._wait_s = wait_s
        self._outage_s = outage_s
        self._refusal_s = refusal_s
        self._capacity = capacity
        self._clock = clock
        self._lock = threading.Lock()
        self._good: OrderedDict[str, _Kept[T]] = OrderedDict()
        self._refused: OrderedDict[str, float] = OrderedDict()  # until when
        self._open: dict[str, _Question[T]] = {}
        self._asking = 0

    def get(self, subject: str, ask: Callable[[], T | None]) -> T | None:
        """The answer about a subject: a remembered one, or what ``ask`` finds out.

        ``ask`` raises UnavailableError when the service gives no usable answer. Raises UnavailableError when
        there is no answer, not even an older one, within ``wait_s``.
        """
        with self._lock:
            now = self._clock()
            kept = self._good.get(subject)
            if kept is not None and now < kept.fresh_until:
                self._good.move_to_end(subject)
                return kept.value
            if now < self._refused.get(subject, now):
                return None
        return self._settled(subject, self._put(subject, ask), usable=True)

    def renew(self, subject: str, ask: Callable[[], T | None], *, min_age_s: float) -> T | None:
        """A newer answer than the one remembered, unless that was asked for less than ``min_age_s`` ago.

        Raises UnavailableError when the service failed: an older answer does not do here.
        """
        with self._lock:
            kept = self._good.get(subject)
            if kept is not None and self._clock() < kept.asked + min_age_s:
                if kept.failing:
                    raise self._unavailable()
                return kept.value
        return self._settled(subject, self._put(subject, ask), usable=False)

    def _put(self, subject: str, ask: Callable[[], T | None]) -> _Question[T]:
        """The question about a subject that is under way, asked now if there is none."""
        with self._lock:
            question = self._open.get(subject)
            if question is not None:
                return question
            if self._asking >= MAX_OPEN:
                raise self._unavailable()
            self._asking += 1
            question = self._open[subject] = _Question()
        # On a thread of its own: a service that sends a byte now and then can hold up nobody.
        threading.Thread(
            target=self._ask, args=(subject, question, ask), name="kelpie-identity", daemon=True
        ).start()
        return question

    def _ask(self, subject: str, question: _Question[T], ask: Callable[[], T | None]) -> None:
        started = self._clock()
        try:
            question.value = ask()
        except UnavailableError as error:
            log.warning("a credential cannot be checked", service=self._what, error=str(error))
            question.error = error
        except Exception:  # whoever waits must be told, and the log must say why
            log.exception("a credential cannot be checked", service=self._what)
            question.error = self._unavailable()
        finally:
            with self._lock:
                self._asking -= 1
                if self._open.get(subject) is question:  # else given up, and perhaps asked anew since
                    del self._open[subject]
                    self._remember(subject, question, started)
            question.done.set()

    def _remember(self, subject: str, question: _Question[T], started: float) -> None:
        now = self._clock()
        if question.error is not None:
            self._failed(subject, started)
        elif question.value is None:
            self._good.pop(subject, None)
            self._refused.pop(subject, None)
            self._refused[subject] = now + self._refusal_s
            self._trim(self._refused)
        else:
            fresh_until = now + self._keep_s
            self._refused.pop(subject, None)
            self._good.pop(subject, None)
            self._good[subject] = _Kept(question.value, started, fresh_until, fresh_until + self._outage_s)
            self._trim(self._good)

    def _failed(self, subject: str, asked: float) -> None:
        kept = self._good.get(subject)
        if kept is not None:
            kept.asked, kept.failing = asked, True
            kept.fresh_until = min(max(kept.fresh_until, self._clock() + RETRY_S), kept.usable_until)

    def _settled(self, subject: str, question: _Question[T], *, usable: bool) -> T | None:
        """The answer to a question, or an older one that is usable in spite of its failure."""
        older = self._usable(subject) if usable else None
        answered = question.done.wait(self._wait_s if older is None else min(PATIENCE_S, self._wait_s))
        if answered and question.error is None:
            return question.value
        if not answered:
            with self._lock:
                self._failed(subject, self._clock())
                if older is None and self._open.get(subject) is question:  # whoever comes next asks anew
                    del self._open[subject]
        if older is None:
            raise self._unavailable()
        return older.value

    def _usable(self, subject: str) -> _Kept[T] | None:
        with self._lock:
            kept = self._good.get(subject)
            return kept if kept is not None and self._clock() < kept.usable_until else None

    def _trim(self, entries: OrderedDict[str, Any]) -> None:
        while len(entries) > self._capacity:
            entries.popitem(last=False)

    def _unavailable(self) -> UnavailableError:
        return UnavailableError(f"{self._what} gives no answer now; nothing was refused, try again.")
