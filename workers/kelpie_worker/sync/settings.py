"""What configures the sync engine, for a worker and for ``kelpie data`` alike."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from kelpie_worker.fields import integer, one_of, paths, read, seconds, setting

MiB = 1 << 20

_TEMP_DIR = Path(tempfile.gettempdir())
_DAY_S = 86_400
_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncSettings:
    """What configures the sync engine. The storage's address and keys are read by boto3 (``AWS_*``)."""

    max_retries: int = setting(
        8,  # about half a minute of a store that is away
        "MAX_RETRIES",
        unit="tries",
        help="Tries of one request to the storage before its transfer fails.",
        parse=integer(1, 100),
    )
    part_size: int = setting(
        10 * MiB,
        "KELPIE_PART_SIZE",
        unit="bytes",
        help="Size of the parts that large files are moved in.",
        parse=integer(5 * MiB, 1024 * MiB),
    )
    parts_per_file: int = setting(
        8,
        "KELPIE_PARTS_PER_FILE",
        unit="parts",
        help="Parts of one file in flight at once.",
        parse=integer(1, 64),
    )
    threads: int = setting(
        64,
        "KELPIE_TRANSFER_THREADS",
        unit="threads",
        help="Transfers in flight at once, over all jobs of the node, at most: a fast link needs few, and "
        "more are begun only while the storage is what is waited for. Each takes half a MiB.",
        parse=integer(1, 256),
    )
    transport: str = setting(
        "auto",
        "KELPIE_SYNC_TRANSPORT",
        help="How objects travel: `auto` (a lean client where it knows the storage, else boto3) or `boto3`.",
        parse=one_of("auto", "boto3"),
    )
    watcher_debounce_ms: int = setting(
        1000,
        "FILE_WATCHER_DEBOUNCE_MS",
        unit="ms",
        help="Changes of a file are collected for this long before it is uploaded.",
        parse=integer(0, _HOUR_MS),
    )
    watcher_max_wait_ms: int = setting(
        2000,
        "FILE_WATCHER_MAX_WAIT_MS",
        unit="ms",
        help="A file that keeps being closed and rewritten is uploaded at least this often.",
        parse=integer(0, _HOUR_MS),
    )
    watcher_stability_ms: int = setting(
        1000,
        "FILE_WATCHER_STABILITY_CHECK_MS",
        unit="ms",
        help="A file kept open by its writer is uploaded when unchanged for three times this long.",
        parse=integer(1, _HOUR_MS),
    )
    changed_during_upload: str = setting(
        "again",
        "KELPIE_CHANGED_DURING_UPLOAD",
        help="What a change of a file during its own upload leads to: `again` (one more upload) or `ignore`.",
        parse=one_of("again", "ignore"),
    )
    allowed_roots: tuple[Path, ...] = setting(
        (),
        "KELPIE_ALLOWED_ROOTS",
        help="Folders that sync entries may name or lie in, separated by `:`; empty: any but system folders.",
        parse=paths,
    )
    temp_dir: Path = setting(  # noqa: RUF009  (a field, as dataclasses.field is)
        _TEMP_DIR,
        "KELPIE_TEMP_DIR",
        help="Where outputs wait for their upload when they cannot stay on their own file system.",
        parse=Path,
        shown_default="the system's temporary folder",
    )
    stall_timeout_s: float = setting(
        60.0,
        "KELPIE_STALL_TIMEOUT_S",
        unit="s",
        help="A connection to the storage that moves no byte for this long is retried.",
        parse=seconds(1, _DAY_S),
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """The settings of an environment (default: the process's own); StartupError names every bad value."""
        return read(cls, os.environ if environ is None else environ)
