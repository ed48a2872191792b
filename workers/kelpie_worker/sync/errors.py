"""What can go wrong with a job's data."""

from __future__ import annotations

from kelpie.errors import KelpieError


class SyncError(KelpieError):
    """The data of a job could not be moved; the text names the folder, file or object and says why."""


class CanceledTransfer(KelpieError):
    """The job was abandoned (its lease is lost, or it was canceled): nothing more is moved for it."""


class SourceChanged(KelpieError):
    """A file changed while it was read; what was read of it is no version of it and was thrown away."""


class ObjectChanged(KelpieError):
    """An object was replaced while it was fetched; the parts fetched so far belong to another version."""


class DamagedTransfer(KelpieError):
    """Bytes arrived short or altered; worth another try."""
