"""What can go wrong with a job's data."""

from __future__ import annotations

from kelpie.errors import KelpieError


class SyncError(KelpieError):
    """The data of a job could not be moved; the text names the folder, file or object and says why."""


class CanceledTransfer(KelpieError):
    """The job was abandoned (its lease is lost, or it was canceled): nothing more is moved for it."""


class Fenced(CanceledTransfer):
    """A later attempt at the same job has stored an object: this one has lost its lease."""


class OutOfReach(SyncError):
    """The storage gave no good answer for as long as was tried; later it may."""


class NotSupported(SyncError):
    """The storage does not know what it was asked to do."""


class UploadGone(SyncError):
    """The storage does not know the multipart upload: it expired, or somebody else aborted it."""


class SourceChanged(KelpieError):
    """A file changed while it was read; what was read of it is no version of it and was thrown away."""


class ObjectChanged(KelpieError):
    """An object is not the version that a request was meant for: it was replaced, made or deleted."""


class DamagedTransfer(KelpieError):
    """Bytes arrived short or altered; worth another try."""


class StorageError(KelpieError):
    """The storage said no, as boto3's ClientError tells it: ``response`` has the same form."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code} {message}".strip())
        self.response = {
            "Error": {"Code": code, "Message": message},
            "ResponseMetadata": {"HTTPStatusCode": status},
        }
