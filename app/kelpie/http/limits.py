"""How often a caller may ask: by user and kind of request; by address only for what is not authenticated.

A limiter that asks Redis for every request would cost a round trip each, and fail with Redis. So every
process keeps token buckets of its own, and once a second all tell one another through Redis what they have
spent: each takes the others' spending out of its own buckets. Over a few seconds all processes together grant
what the limit says; within one second each may grant a burst more. While Redis is away each process holds the
limit by itself.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from flask import g, request

from kelpie.config import Settings
from kelpie.errors import ForbiddenError, TooFastError, UnauthenticatedError
from kelpie.store.metrics import Metrics

BURST_S = 2.0
"""What a caller may save up, in seconds of his rate."""

MAX_DEBT_S = 10.0
"""What processes may have granted too much together and take back later, in seconds of a caller's rate."""

MAX_BUCKETS = 20_000
MAX_SHARED = 5_000  # buckets that one call shares
MAX_KNOWN = 10_000
CREDENTIALS = ("X-Kelpie-Key", "Salad-Api-Key", "Salad-Organization", "Authorization")


@dataclass(frozen=True, slots=True)
class Limit:
    """How much may be spent."""

    per_s: float
    burst: float


class Bucket:
    """What one caller may still spend in this process."""

    def __init__(self, limit: Limit, now_s: float) -> None:
        self.limit = limit
        self.tokens = limit.burst
        self.filled_s = now_s
        self.spent = 0  # since it was last shared
        self.minute = -1  # in which it was last shared
        self.shared = 0  # what all had spent in that minute then

    def fill(self, now_s: float) -> None:
        """Add what time has brought."""
        self.tokens = min(self.limit.burst, self.tokens + (now_s - self.filled_s) * self.limit.per_s)
        self.filled_s = now_s

    def take(self, now_s: float) -> float:
        """Spend one, or say in how many seconds there will be one; 0: it was spent."""
        self.fill(now_s)
        if self.tokens >= 1:
            self.tokens -= 1
            self.spent += 1
            return 0.0
        return (1 - self.tokens) / self.limit.per_s

    def learn(self, minute: int, total: int, own: int) -> None:
        """Take out what others have spent. They may bring it into debt for some seconds, not for more."""
        before = self.shared if minute == self.minute else 0
        others = max(0, total - before - own)
        lowest = min(self.tokens, -MAX_DEBT_S * self.limit.per_s)
        self.tokens = max(self.tokens - others, lowest)
        self.minute, self.shared = minute, total


class Buckets:
    """The buckets of one process, by name."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()  # the last one used is last
        self._process = secrets.token_hex(8)
        self._sequence = 1
        self._sending: list[tuple[str, int]] | None = None

    def take(self, name: str, limit: Limit) -> float:
        """Spend one of ``name``: 0, or the seconds until there will be one."""
        if limit.per_s <= 0:
            return 0.0
        with self._lock:
            bucket = self._buckets.get(name)
            if bucket is None:
                bucket = self._buckets[name] = Bucket(limit, self._clock())
                if len(self._buckets) > MAX_BUCKETS:
                    self._buckets.popitem(last=False)
            self._buckets.move_to_end(name)
            return bucket.take(self._clock())

    def wait_s(self, name: str) -> float:
        """The seconds until one could be spent; 0: now."""
        with self._lock:
            bucket = self._buckets.get(name)
            if bucket is None:
                return 0.0
            bucket.fill(self._clock())
            return 0.0 if bucket.tokens >= 1 else (1 - bucket.tokens) / bucket.limit.per_s

    def share(self) -> None:
        """Tell the other processes what was spent here, and learn what was spent there.

        Raises UnavailableError; the next call then says it again.
        """
        with self._lock:
            if self._sending is None:
                self._sending = self._spending()
            sending = self._sending
        if sending:
            minute, totals = self._metrics.share_spending(self._process, self._sequence, sending)
            with self._lock:
                for (name, own), total in zip(sending, totals, strict=True):
                    bucket = self._buckets.get(name)
                    if bucket is not None:
                        bucket.learn(minute, total, own)
        with self._lock:
            self._sequence += 1
            self._sending = None

    def _spending(self) -> list[tuple[str, int]]:
        now_s = self._clock()
        found: list[tuple[str, int]] = []
        for name, bucket in list(self._buckets.items()):
            bucket.fill(now_s)
            if bucket.spent or bucket.tokens < bucket.limit.burst:
                if len(found) < MAX_SHARED:
                    found.append((name, bucket.spent))
                    bucket.spent = 0
            else:
                del self._buckets[name]  # full, and nobody uses it: as good as new
        return found


class Limits:
    """The limits of the API, as the settings say."""

    def __init__(self, settings: Settings, buckets: Buckets) -> None:
        self._buckets = buckets
        self._limits = {
            "submit": _per_second(settings.rate_submit_per_s),
            "work": _per_second(settings.rate_work_per_s),
            "read": _per_second(settings.rate_read_per_s),
        }
        a_minute = float(settings.failed_logins_per_minute)
        self._failures = Limit(a_minute / 60, a_minute)
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def before_authentication(self) -> None:
        """Raises TooFastError for an address from which too many unknown credentials came.

        Not for credentials that were good before: a fleet behind one address goes on while a stranger there
        guesses.
        """
        name = _address()
        if name is None or not self._failures.per_s:
            return
        wait_s = self._buckets.wait_s(name)
        if wait_s and any(header in request.headers for header in CREDENTIALS):
            shown = _shown()
            if shown not in self._known:
                raise TooFastError(
                    "Too many unknown credentials came from your address; wait, and check the key.",
                    retry_after_s=wait_s,
                )

    def after_refusal(self, _error: UnauthenticatedError | ForbiddenError) -> None:
        """Note that unknown credentials came from this address. None at all are no guess."""
        name = _address()
        if name is not None and any(header in request.headers for header in CREDENTIALS):
            self._buckets.take(name, self._failures)

    def before_login(self) -> None:
        """Raises TooFastError for an address from which too many unknown keys came into the login form."""
        name = _address()
        wait_s = 0.0 if name is None or not self._failures.per_s else self._buckets.wait_s(name)
        if wait_s:
            raise TooFastError(
                "Too many unknown keys came from your address; wait, and check the key.", retry_after_s=wait_s
            )

    def after_failed_login(self) -> None:
        """Note that an unknown key came into the login form from this address."""
        name = _address()
        if name is not None:
            self._buckets.take(name, self._failures)

    def after_authentication(self) -> None:
        """Spend one request of the caller. Raises TooFastError when he has none left."""
        caller = g.get("principal")
        if caller is None:  # a page for everybody
            return
        self._remember()
        kind = kind_of_request()
        limit = self._limits[kind]
        wait_s = self._buckets.take(f"{kind} {caller.user_id}", limit)
        if wait_s:
            raise TooFastError(
                f"You ask too often: more than {limit.per_s:g} requests of this kind ({kind}) a second.",
                retry_after_s=wait_s,
            )

    def _remember(self) -> None:
        if not self._failures.per_s:
            return
        shown = _shown()
        self._known[shown] = None
        self._known.move_to_end(shown)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)


def kind_of_request() -> str:
    """Which limit the current request counts against: submit, work, or read (everything else)."""
    if request.blueprint == "work":
        return "work"
    return "submit" if request.endpoint in {"jobs.submit", "jobs.submit_batch"} else "read"


def _per_second(rate: float) -> Limit:
    return Limit(rate, max(1.0, rate * BURST_S))


def _shown() -> bytes:
    """What names the credentials of the current request here; they are not kept themselves."""
    told = "\0".join(request.headers.get(header, "") for header in CREDENTIALS)
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).digest()


def _address() -> str | None:
    """Who is limited for unknown credentials: an IPv4 address, or a /64 of IPv6, which one customer has."""
    try:
        address = ipaddress.ip_address(request.remote_addr or "")
    except ValueError:  # a unix socket
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return f"address {ipaddress.ip_network((address, 64), strict=False).network_address}"
        address = address.ipv4_mapped
    return f"address {address}"
