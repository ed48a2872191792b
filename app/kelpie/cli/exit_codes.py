"""What each exit code of ``kelpie`` means. The codes of the servers follow sysexits.h."""

from __future__ import annotations

from kelpie.errors import (
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    KelpieError,
    NotFoundError,
    StartupError,
    TooFastError,
    UnauthenticatedError,
    UnavailableError,
)

OK = 0
FAILED = 1  # it was tried and did not succeed; of `submit --wait`: the job failed or was canceled
USAGE = 2  # the command line or the job is wrong; nothing was changed
NOT_FOUND = 3
REFUSED = 4  # no key, an unknown key, or one that does not allow this
UNREACHABLE = 5
CONFLICT = 6  # the thing is in a state that does not allow this
SERVER_UNAVAILABLE = 69  # a server could not reach what it needs (EX_UNAVAILABLE)
CONFIG = 78  # a setting is wrong, or a package is missing (EX_CONFIG)
REPLACE_NODE = 86  # of `worker`: replace this node
INTERRUPTED = 130  # Ctrl-C, as shells report it

_CODES: tuple[tuple[type[KelpieError], int], ...] = (
    (InvalidInputError, USAGE),
    (NotFoundError, NOT_FOUND),
    (UnauthenticatedError, REFUSED),
    (ForbiddenError, REFUSED),
    (UnavailableError, UNREACHABLE),
    (TooFastError, UNREACHABLE),
    (ConflictError, CONFLICT),
    (StartupError, CONFIG),
)

HELP = """\b
Exit codes:
   0  done
   1  tried without success (submit --wait: the job failed or was canceled)
   2  the command line or the job is wrong
   3  no such job or user
   4  no key, an unknown key, or one that does not allow this (KELPIE_API_KEY)
   5  the API cannot be reached (KELPIE_API_URL)
   6  the state of the job does not allow this
  69  a server: what it needs cannot be reached
  78  a setting is wrong, or a package is missing
  86  worker: replace this node
  87  worker: recreate this container
 130  interrupted by Ctrl-C
"""


def code_of(error: KelpieError) -> int:
    """The exit code that says what went wrong."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)
