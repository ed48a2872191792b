"""Patterns of sync entries: ECMAScript syntax, run by RE2, so that none can hang a worker."""

from __future__ import annotations

import re

import re2

MAX_PATTERN_CHARS = 1000
_UNICODE_ESCAPE = re.compile(
    r"(?P<skipped>\\\\)|\\u(?:(?P<four>[0-9A-Fa-f]{4})|\{(?P<braced>[0-9A-Fa-f]{1,6})\})"
)


def to_re2(pattern: str) -> str:
    r"""The pattern as RE2 writes it: ``\uXXXX`` and ``\u{X…}`` become ``\x{X…}``; the rest is the same."""

    def translated(match: re.Match[str]) -> str:
        if match["skipped"]:
            return match["skipped"]
        return rf"\x{{{match['four'] or match['braced']}}}"

    return _UNICODE_ESCAPE.sub(translated, pattern)


def check(pattern: str) -> str:
    """The pattern itself. Raises ValueError when no worker could run it."""
    options = re2.Options()
    options.log_errors = False  # a user's typing error is his to read, not the operator's
    try:
        re2.compile(to_re2(pattern), options)
    except re2.error as error:
        reason = error.args[0]
        if isinstance(reason, bytes):
            reason = reason.decode(errors="replace")
        raise ValueError(
            f"RE2 cannot run this pattern ({reason}); look-around and back-references are not available"
        ) from None
    return pattern
