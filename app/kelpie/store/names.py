"""The names and numbers that callers choose: what they may look like."""

from __future__ import annotations

from kelpie.errors import InvalidInputError

MAX_NAME_CHARS = 256


def checked(field: str, value: str) -> str:
    """``value`` if it is 1…256 characters, none a control character; else InvalidInputError."""
    if not value:
        problem = "must not be empty"
    elif len(value) > MAX_NAME_CHARS:
        problem = f"has {len(value)} characters; the limit is {MAX_NAME_CHARS}"
    elif any(ord(char) < 32 or 127 <= ord(char) < 160 or 0xD800 <= ord(char) < 0xE000 for char in value):
        problem = "must not hold control characters"
    else:
        return value
    raise InvalidInputError(f"{field} {problem}.", errors=((field, problem),))


def within(field: str, value: int, low: int, high: int) -> None:
    """Raises InvalidInputError for a value outside ``low``…``high``."""
    if not low <= value <= high:
        problem = f"must be {low}…{high}"
        raise InvalidInputError(f"{field} is {value}; it {problem}.", errors=((field, problem),))
