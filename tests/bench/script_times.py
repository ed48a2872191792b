"""How long scripts keep the server: nobody else is served in that time.

The slow log names the long calls. It is not asked for the short ones: noting every call, and every command in
it, would take longer than the scripts. INFO commandstats knows their mean at no cost.
"""

from __future__ import annotations

import contextlib
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import redis

from kelpie.store.scripts import QUEUE_SCRIPTS, load

NOTED_US = 500
MAX_ENTRIES = 100_000
GROUPS = 20


class LongCalls:
    """Calls of scripts that took :data:`NOTED_US` or more, in µs, by script."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._names = {load(name).sha: name for name in QUEUE_SCRIPTS}
        self._calls: dict[str, list[int]] = defaultdict(list)

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Note those that run meanwhile."""
        self._client.config_set("slowlog-max-len", MAX_ENTRIES)
        self._client.config_set("slowlog-log-slower-than", NOTED_US)
        self._client.slowlog_reset()
        try:
            yield
        finally:
            self._client.config_set("slowlog-log-slower-than", -1)
        for entry in self._client.slowlog_get(MAX_ENTRIES):
            sha = entry["command"].split(b" ", 2)[1:2]
            name = self._names.get(sha[0].decode() if sha else "")
            if name is not None:
                self._calls[name].append(entry["duration"])

    def show(self) -> None:
        """A line per script, the one with the longest call first."""
        print(
            f"{'script':>14} {f'calls ≥ {NOTED_US} µs':>16} {'quickest':>9} {'median':>9} {'longest':>9}   ms"
        )
        for script, times in sorted(self._calls.items(), key=lambda entry: -max(entry[1])):
            print(
                f"{script:>14} {len(times):>16} {min(times) / 1e3:>9.1f} "
                f"{statistics.median(times) / 1e3:>9.1f} {max(times) / 1e3:>9.1f}"
            )

    @property
    def longest_ms(self) -> float:
        """The longest of all."""
        return max((max(times) for times in self._calls.values()), default=0) / 1e3


@contextlib.contextmanager
def cpu_of(client: redis.Redis, what: str) -> Iterator[None]:
    """Prints the CPU time of the server per script call meanwhile: what they cost on a machine of its own."""
    client.config_resetstat()
    before = _cpu_s(client)
    yield
    calls = int(client.info("commandstats")["cmdstat_evalsha"]["calls"])
    each_ms = (_cpu_s(client) - before) * 1e3 / calls
    print(f"   {what}: {each_ms:.1f} ms of CPU per call, {calls:,} calls", flush=True)


def _cpu_s(client: redis.Redis) -> float:
    info = client.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def mean_us(client: redis.Redis, calls: int, call: Callable[[int], object]) -> float:
    """Mean time of a script on the server, in µs: the middle of some groups of calls, against noise.

    ``call`` runs the script once and is given the number of the call.
    """
    (mean,) = means_us([client], calls, lambda _place, number: call(number))
    return mean


def means_us(
    clients: Sequence[redis.Redis],
    calls: int,
    call: Callable[[int, int], object],
    *,
    before: Callable[[int, int], object] | None = None,
) -> list[float]:
    """:func:`mean_us` of a script on several servers, of which one has its group of calls after the other.

    ``call`` is given the place of the server and the number of the call; so is ``before``, whose scripts are
    not counted, for which each call is then a group.
    """
    groups = min(GROUPS, calls) if before is None else calls
    means: list[list[float]] = [[] for _ in clients]
    for group in range(groups):
        for place, client in enumerate(clients):
            if before is not None:
                before(place, group)
            client.config_resetstat()
            for number in range(group * calls // groups, (group + 1) * calls // groups):
                call(place, number)
            means[place].append(float(client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"]))
    return [statistics.median(of_one) for of_one in means]
