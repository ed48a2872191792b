"""The ``pattern`` of a sync entry: ECMAScript syntax, matched by RE2 in time linear in the text.

Look-around and back-references have no linear-time form and are refused. The API checks patterns at submit
with the code that the worker runs them with.
"""

from __future__ import annotations

import re
from typing import Protocol, cast

MAX_PATTERN_LENGTH = 1000
"""Characters of a pattern, at most."""

_ESCAPES = re.compile(
    r"\\u\{(?P<braced>[0-9A-Fa-f]{1,6})\}"
    r"|\\u(?P<four>[0-9A-Fa-f]{4})"
    r"|\\c(?P<control>[A-Za-z])"
    r"|\\(?P<nul>0)(?![0-9])"
    r"|(?P<any>\[\^\])"
    r"|(?P<none>\[\])"
    r"|\\.",
    re.DOTALL,
)


class Pattern(Protocol):
    """A compiled pattern."""

    def search(self, text: str) -> object | None:
        """The first match anywhere in ``text``, or None."""


def compile_pattern(pattern: str) -> Pattern:
    """The compiled form of an ECMAScript pattern; ValueError says what is wrong with it."""
    import re2  # lazily: the engine is loaded in every worker, patterns are rare

    if len(pattern) > MAX_PATTERN_LENGTH:
        raise ValueError(
            f"the pattern is {len(pattern)} characters long; at most {MAX_PATTERN_LENGTH} are possible"
        )
    options = re2.Options()
    options.log_errors = False
    try:
        return cast("Pattern", re2.compile(_ESCAPES.sub(_translate, pattern), options))
    except (re2.error, UnicodeError) as error:
        detail = error.args[0] if error.args else ""
        text = detail.decode(errors="replace") if isinstance(detail, bytes) else str(detail)
        raise ValueError(
            f"the pattern {pattern!r} is not possible: {text or 'invalid'} (look-around and back-references"
            " are not supported)"
        ) from None


def _translate(found: re.Match[str]) -> str:
    """RE2's form of one ECMAScript escape that RE2 writes differently; others stay."""
    code = found["braced"] or found["four"]
    if code:
        return rf"\x{{{code}}}"
    if found["control"]:
        return rf"\x{{{ord(found['control']) % 32:x}}}"
    if found["nul"]:
        return r"\x00"
    if found["any"]:
        return r"(?s:.)"
    if found["none"]:
        return r"[^\x{0}-\x{10FFFF}]"
    return found[0]
