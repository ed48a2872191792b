"""One change to each of the things that a command line names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from kelpie.cli import exit_codes
from kelpie.cli.output import explain
from kelpie.errors import ConflictError, NotFoundError

T = TypeVar("T")


def each(ids: Iterable[str], change: Callable[[str], T]) -> tuple[list[T], int]:
    """What ``change`` gave for each of ``ids``, and the exit code: that of the first which it refused.

    One that is gone, or whose state does not allow the change, says so and does not keep it from the
    others. What would happen to all of them, such as a wrong key, is raised at the first.
    """
    changed = []
    code = exit_codes.OK
    for one in ids:
        try:
            changed.append(change(one))
        except (NotFoundError, ConflictError) as error:
            code = code or exit_codes.code_of(error)
            explain(error)
    return changed, code
