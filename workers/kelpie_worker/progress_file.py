"""What a command says of its progress, read from a file that it writes: ``KELPIE_PROGRESS_FILE``.

JSON lines, each an object with some of ``fraction``, ``step``, ``total``, ``metrics`` and ``checkpoint``; the
last word on each counts. Lines may be added, and the file may be written anew or replaced. What cannot be
understood is passed over with one warning: nothing that a command writes here can fail its job.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import structlog

from kelpie.progress import MAX_METRICS, MAX_RATE, MAX_STEP, ProgressReport, metric_name, number

INTERVAL_S = 1.0
MAX_READ_BYTES = 256 * 1024
"""Of what was written since the last look; of more, the end."""
MAX_LINE_BYTES = 16 * 1024
MAX_REMOVED = 10_000
"""Files and folders of a tree that was left in place of the file."""
_FINGERPRINT_BYTES = 64
_MAX_SAMPLES = 64
_SLACK = 0.01  # sums of floats may come out a little above 1


def progress_file(state_file: Path) -> Path:
    """Where the command of a worker with that state file tells its progress."""
    return state_file.absolute().with_name(f".{state_file.name}.progress")


@dataclass(frozen=True, slots=True)
class Said:
    """What a command has said so far. Times are of the monotonic clock, in seconds."""

    updated_s: float
    fraction: float | None = None
    step: float | None = None
    total: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    checkpoint_s: float | None = None
    rate: float | None = None

    def to_tell(self) -> ProgressReport:
        """The same for those who have another clock."""
        now = time.monotonic()
        return ProgressReport(
            fraction=self.fraction,
            step=self.step,
            total=self.total,
            metrics=self.metrics,
            checkpoint_age_s=None if self.checkpoint_s is None else now - self.checkpoint_s,
            age_s=now - self.updated_s,
            rate=self.rate,
        )


class ProgressReader:
    """Follows the file of one command, looking every second from :meth:`start` to :meth:`stop`."""

    def __init__(
        self,
        path: Path,
        log: structlog.typing.FilteringBoundLogger,
        *,
        interval_s: float = INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self._log = log
        self._interval_s = interval_s
        self._clock = clock
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._said: Said | None = None
        self._rate = _Rate()
        self._warned = False
        self._seen: tuple[int, int, int] | None = None  # inode, size, time of change
        self._offset = 0
        self._before = b""  # what stands right before the offset
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    @property
    def said(self) -> Said | None:
        """What was said up to the last look; another object as soon as there is news."""
        return self._said

    def start(self) -> None:
        """Make an empty file, and begin to look. A disk that does not take it harms no job."""
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _clear(self.path)
            # a link that is put here meanwhile leads nowhere
            os.close(
                os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            )
        self._thread.start()

    def stop(self) -> None:
        """The command has ended: look once more, and delete the file."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        self.look()
        with contextlib.suppress(OSError):
            _clear(self.path)

    def look(self) -> None:
        """Take in what was written since the last look."""
        with self._lock:
            try:
                lines = self._new_lines()
            except OSError as error:
                return self._warn(f"cannot be read: {error.strerror or error}")
            now = self._clock()
            for line in lines:
                self._take(line, now)
        return None

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_s):
            try:
                self.look()
            except Exception:  # noqa: BLE001  (whatever a command wrote, its job goes on)
                self._log.exception("unexpected error in a progress file")

    # ---- the file

    def _new_lines(self) -> list[bytes]:
        try:
            # neither a pipe that nobody writes to nor a link to another file is waited for or followed
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return []
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                self._warn("is no regular file")
                return []
            seen = (found.st_ino, found.st_size, found.st_mtime_ns)
            if seen == self._seen:
                return []
            if not self._goes_on(descriptor, found):
                self._offset, self._before = 0, b""
            self._seen = seen
            return self._read(descriptor, found.st_size)
        finally:
            os.close(descriptor)

    def _goes_on(self, descriptor: int, found: os.stat_result) -> bool:
        """Whether lines were added; else the file was written anew, and all of it is news."""
        if self._seen is None or self._seen[0] != found.st_ino or found.st_size < self._offset:
            return False
        before = os.pread(descriptor, len(self._before), self._offset - len(self._before))
        return before == self._before

    def _read(self, descriptor: int, size: int) -> list[bytes]:
        start = max(self._offset, size - MAX_READ_BYTES)
        data = os.pread(descriptor, size - start, start)
        if start > self._offset:  # most likely in the middle of a line
            cut = data.find(b"\n") + 1
            start, data = start + cut, data[cut:]
            self._before = b""
        *lines, rest = data.split(b"\n")
        if (
            rest and _object(rest) is not None
        ):  # a line that ends with its file; an unfinished one is no object
            lines, rest = [*lines, rest], b""
        elif len(rest) > MAX_LINE_BYTES:
            self._warn("has a line that is too long")
            rest = b""  # passed over; its end will be no object
        taken = data[: len(data) - len(rest)]
        self._offset = start + len(taken)
        self._before = (self._before + taken)[-_FINGERPRINT_BYTES:]
        return [line for line in lines if line.strip()]

    # ---- what it says

    def _take(self, line: bytes, now: float) -> None:
        told = _object(line) if len(line) <= MAX_LINE_BYTES else None
        if told is None:
            return self._warn(f"has a line that is no JSON object: {line[:80]!r}")
        said = self._said or Said(now)
        changes = self._changes(told, said, now)
        if changes:
            if changes.get("fraction") is not None:
                changes["rate"] = self._rate.note(now, changes["fraction"])
            self._said = replace(said, updated_s=now, **changes)
        return None

    def _changes(self, told: Mapping[str, Any], said: Said, now: float) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        for name, high in (("step", MAX_STEP), ("total", MAX_STEP), ("fraction", 1 + _SLACK)):
            if told.get(name) is not None:
                value = number(told[name], 0, high)
                if value is None:
                    self._warn(
                        f"says {name} is {str(told[name])[:40]!r}, which is no number from 0 to {high:g}"
                    )
                else:
                    changes[name] = value
        if "fraction" in changes:
            changes["fraction"] = min(1.0, changes["fraction"])
        elif changes:
            step, total = changes.get("step", said.step), changes.get("total", said.total)
            if step is not None and total:
                changes["fraction"] = min(1.0, step / total)
        if told.get("metrics") is not None:
            changes["metrics"] = self._metrics(told["metrics"], said.metrics)
        if told.get("checkpoint"):
            changes["checkpoint_s"] = now
        return changes

    def _metrics(self, told: Any, known: Mapping[str, float]) -> Mapping[str, float]:
        if not isinstance(told, dict):
            self._warn("says metrics are something else than an object of numbers by name")
            return known
        merged = dict(known)
        for name, value in told.items():
            fit_name, fit_value = metric_name(name), number(value)
            if fit_name is None or fit_value is None:
                self._warn(f"has a metric without a fit name or a finite number: {name[:40]!r}")
            elif fit_name not in merged and len(merged) >= MAX_METRICS:
                self._warn(f"has more than {MAX_METRICS} metrics")
            else:
                merged[fit_name] = fit_value
        return merged

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._log.warning(
                "a progress file is not understood; the job goes on", path=str(self.path), why=what
            )
        self._warned = True


class _Rate:
    """The rate of the work in this attempt, over the later half of what was seen of it.

    A resumed attempt begins at its first fraction, and so does a command that goes back to a checkpoint.
    """

    def __init__(self) -> None:
        self._samples: list[tuple[float, float]] = []  # when, and the fraction
        self._rate: float | None = None

    def note(self, now: float, fraction: float) -> float | None:
        """The rate per second now that this fraction is seen; None while it is the only one."""
        samples = self._samples
        if samples and fraction < samples[-1][1] - _SLACK:
            samples.clear()
        if samples and samples[-1][0] == now:
            samples.pop()
        samples.append((now, fraction))
        if len(samples) > _MAX_SAMPLES:
            del samples[1:-1:2]
        middle = (samples[0][0] + now) / 2
        then, before = max((one for one in samples if one[0] <= middle), default=samples[0])
        if now > then:
            self._rate = min(max(0.0, (fraction - before) / (now - then)), MAX_RATE)
        return self._rate


def _clear(path: Path) -> None:
    """Whatever was left there, the name is free after this. OSError."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISDIR(path.lstat().st_mode):
            return path.unlink()
        tree = path.with_name(f"{path.name}.{time.time_ns()}")
        path.rename(tree)  # at once, however large it is
        _remove_tree(tree)
    return None


def _remove_tree(tree: Path) -> None:
    """Delete a tree that a command has made, or as much of it as is done soon: it may be of any size."""
    folders, seen = [tree], 0
    for folder in folders:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                seen += 1
                if seen > MAX_REMOVED:
                    return
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                else:
                    os.unlink(entry.path)  # noqa: PTH108  (an entry is no Path)
    for folder in reversed(folders):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):  # no JSON, not UTF-8, a number without end, brackets without end
        return None
    return told if isinstance(told, dict) else None
