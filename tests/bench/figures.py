"""How the benchmarks say what they saw: the machine, the middle of several rounds, and their spread."""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import redis


def announce(title: str, client: redis.Redis) -> None:
    """Prints what is measured, on which server, and how busy the machine is before we start."""
    info = client.info()
    version = info.get("valkey_version") or info["redis_version"]
    fsync = client.config_get("appendfsync")["appendfsync"]
    print(f"== {title}", flush=True)
    print(
        f"   {os.cpu_count()} cores ({_cpu()}), load {load()}; "
        f"{info.get('server_name', 'redis')} {version}, "
        f"allocator {_allocator(info)}, appendonly yes, appendfsync {fsync}",
        flush=True,
    )


def load() -> str:
    """The load averages of the last 1, 5 and 15 minutes. Above 0.3 before the start: others are at work."""
    return " ".join(f"{average:.2f}" for average in os.getloadavg())


def _allocator(info: Mapping[str, Any]) -> str:
    """What the server was built with, unless another was put before it when it started."""
    maps = Path(f"/proc/{info['process_id']}/maps").read_text()
    preloaded = re.search(r"/lib(mimalloc|jemalloc|tcmalloc)", maps)
    return preloaded[1] if preloaded else str(info["mem_allocator"])


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` (0…1) of the values do not exceed; of at least one value."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(values: Sequence[float]) -> str:
    """How far apart the rounds were, as ±% of their median: the noise of this machine in this run."""
    if len(values) < 2:
        return ""
    return f"±{50 * (max(values) - min(values)) / statistics.median(values):.0f} %"
