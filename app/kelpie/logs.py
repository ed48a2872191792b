"""Logs of every Kelpie process: one JSON line per event, or a human line when stderr is a terminal.

The worker uses it too: it imports structlog and the standard library, and of ours what needs no more.
What other libraries write through :mod:`logging` (gunicorn, RQ, redis) comes out in the same form.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO, cast

import structlog

from kelpie.secrets import MASK, holds_token, masked_environment

LEVELS = ("debug", "info", "warning", "error", "critical")
"""The levels that :func:`configure` takes, in rising order."""

SECRET_KEYS = frozenset(
    {"admin_key", "api_key", "authorization", "key", "lease", "password", "secret", "token", "webhook_secret"}
)
"""Names of event fields whose value is never written."""

_SECRETS = re.compile(
    r"klp_[\w-]{8,}|whsec_[\w+/=]{8,}|(?<=://)[^\s/@\"']*:[^\s/@\"']*(?=@)|(?<=[Bb]earer )[\w.~+/=-]{8,}"
)
"""What looks like a secret anywhere: API keys, webhook secrets, passwords in URLs, bearer tokens."""


def configure(level: str = "info", stream: Any = None) -> None:
    """Send every log line at ``level`` (one of :data:`LEVELS`, in any case) or above to stderr.

    ``stream`` is written to in its place: anything with ``write`` and ``flush``.

    Raises ValueError for an unknown level. May be called again; the last call wins.
    """
    if level.lower() not in LEVELS:
        raise ValueError(f"unknown log level {level!r}; choose one of {', '.join(LEVELS)}")
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        redact,
    ]
    rendering = _rendering(human=sys.stderr.isatty())
    stream = cast("TextIO", _Unfailing(stream or sys.stderr))  # what loggers need of one
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries are chatty at info and debug; ours is what the level speaks of.
    root.setLevel(max(threshold, logging.WARNING))
    # It warns of every retry; whoever called it says what came of them.
    logging.getLogger("urllib3").setLevel(max(threshold, logging.ERROR))


class _Unfailing:
    """A stream that loses what cannot be written: its disk is full, or the reader of its pipe has gone.

    No request fails and no job ends because it could not be logged. What was cut is not continued: the next
    line begins as one.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._cut = False

    def write(self, text: str) -> int:
        try:
            if self._cut:
                self._stream.write("\n")
                self._cut = False
            self._stream.write(text)
        except OSError:
            self._cut = True
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._cut = True


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor that hides secrets, the net below careful callers.

    It hides the values of :data:`SECRET_KEYS`, texts that hold what :func:`scrub` cannot cut out of them, and
    the secrets of an ``environment``.
    """
    for name, value in event.items():
        if name in SECRET_KEYS:
            event[name] = "[redacted]"
        elif isinstance(value, str) and holds_token(_hidden(value)):
            event[name] = MASK
        elif name == "environment" and isinstance(value, Mapping):
            event[name] = masked_environment(value)
    return event


def scrub(_logger: Any, _method: str, line: Any) -> str:
    """The last processor: hides secrets inside texts. An error may show the URL that it could not reach."""
    return _hidden(line)


def _hidden(text: str) -> str:
    return _SECRETS.sub("[redacted]", text)


def _rendering(*, human: bool) -> list[structlog.typing.Processor]:
    # Tracebacks without local variables: those hold keys and secrets.
    if human:
        return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback), scrub]
    tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return [structlog.processors.ExceptionRenderer(tracebacks), structlog.processors.JSONRenderer(), scrub]
