"""What a command writes, cut into lines as a terminal would show them."""

from __future__ import annotations

from collections.abc import Iterator

from kelpie.job import MAX_LOG_LINE_CHARS

MAX_OPEN_S = 5.0
"""A line that has no end after this long is told in pieces, so that a prompt or a progress bar is seen."""


class LineCutter:
    """Cuts one stream. Of what a carriage return overwrites only the last is left, as on a screen."""

    def __init__(self) -> None:
        self._open = b""
        self._since = 0.0

    def feed(self, data: bytes, now_s: float) -> Iterator[str]:
        """The lines that end in this piece; ``now_s`` is on any clock that only goes on."""
        if not self._open:
            self._since = now_s
        *ended, rest = (self._open + data).split(b"\n")
        self._open = rest
        if ended:
            self._since = now_s
        for line in ended:
            yield from _pieces(_as_seen(line))
        while len(self._open) > 4 * MAX_LOG_LINE_CHARS:  # bytes of the longest characters
            end = 4 * MAX_LOG_LINE_CHARS
            while end > 4 * MAX_LOG_LINE_CHARS - 3 and self._open[end] & 0xC0 == 0x80:  # within a character
                end -= 1
            head, self._open = self._open[:end], self._open[end:]
            yield from _pieces(_as_seen(head))

    def flush(self, now_s: float | None = None) -> Iterator[str]:
        """The line that has not ended, if it is old enough; without ``now_s`` whatever its age."""
        if self._open and (now_s is None or now_s - self._since >= MAX_OPEN_S):
            line, self._open = self._open, b""
            yield from _pieces(_as_seen(line))


def _as_seen(line: bytes) -> str:
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")


def _pieces(line: str) -> Iterator[str]:
    for start in range(0, len(line) or 1, MAX_LOG_LINE_CHARS):
        yield line[start : start + MAX_LOG_LINE_CHARS]
