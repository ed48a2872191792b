"""Every refusal that Kelpie knows. Imports nothing of ours; the API maps each class to one status code.

An error's text says what was wrong, with which value, and what to do.
"""

from __future__ import annotations


class KelpieError(Exception):
    """Something that Kelpie refuses or cannot do."""


class InvalidInputError(KelpieError):
    """The request itself is wrong; nothing was changed.

    ``errors`` holds one ``(path, message)`` per wrong field, ``index`` the place of a bad job in a batch.
    """

    def __init__(
        self, message: str, *, errors: tuple[tuple[str, str], ...] = (), index: int | None = None
    ) -> None:
        super().__init__(message)
        self.errors = errors
        self.index = index


class UnauthenticatedError(KelpieError):
    """No credentials were shown."""


class ForbiddenError(KelpieError):
    """The credentials are unknown, or do not allow this."""


class NotFoundError(KelpieError):
    """There is no such thing for this caller."""


class ConflictError(KelpieError):
    """The thing is in a state that does not allow this."""


class LeaseLostError(ConflictError):
    """The caller does not hold the job.

    ``reason`` is one word: ``superseded`` (a later attempt exists), ``canceled``, ``completed``, ``failed``
    (the job has ended), ``not_holder`` (another node holds it, or nobody does), ``closed`` (this attempt has
    already reported another outcome).
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class TooFastError(KelpieError):
    """The caller asks more often than a limit allows; ``retry_after_s`` says when to try again."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnavailableError(KelpieError):
    """Redis, a service that checks credentials or, seen from a client, the API gives no answer; try again."""


class StartupError(KelpieError):
    """A process refuses to start: a setting is wrong, or a part that it needs is missing or unsafe."""
