"""Who is told about transfers: the worker's state file."""

from __future__ import annotations

from typing import Protocol


class TransferObserver(Protocol):
    """Told of each file when its transfer begins and ends, and of the backlog.

    Called from the engine's threads: must be quick.
    """

    def upload_started(self, job_id: str, path: str) -> None:
        """An upload of ``path`` began."""

    def upload_ended(self, job_id: str, path: str) -> None:
        """The upload of ``path`` ended, well or not."""

    def download_started(self, job_id: str, path: str) -> None:
        """A download to ``path`` began."""

    def download_ended(self, job_id: str, path: str) -> None:
        """The download to ``path`` ended, well or not."""

    def backlog_changed(self, job_id: str) -> None:
        """What waits for its upload has become more or less."""


class NullObserver:
    """An observer that looks away."""

    def upload_started(self, job_id: str, path: str) -> None:
        """Nothing."""

    def upload_ended(self, job_id: str, path: str) -> None:
        """Nothing."""

    def download_started(self, job_id: str, path: str) -> None:
        """Nothing."""

    def download_ended(self, job_id: str, path: str) -> None:
        """Nothing."""

    def backlog_changed(self, job_id: str) -> None:
        """Nothing."""
