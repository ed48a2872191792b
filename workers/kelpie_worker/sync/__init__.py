"""The sync engine: moves a job's data between its folders and S3-compatible storage.

``engine`` is the entrance; ``job_sync`` orders the steps of one job; ``download``, ``upload``, ``mirror``
(with ``tracker`` and ``watcher``) and ``staging`` are the steps; ``flow`` and ``pool`` run them side by side;
``store``, ``clients`` and ``retry`` speak to the storage; ``tree`` and ``folders`` keep everything inside the
job's folders.
Importing this loads neither boto3 nor watchdog: the first job with data does. ``kelpie data`` needs no more
than ``copying`` and its steps.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kelpie_worker.sync.engine import SyncEngine
    from kelpie_worker.sync.errors import CanceledTransfer, SyncError
    from kelpie_worker.sync.job_sync import JobSync
    from kelpie_worker.sync.observer import NullObserver, TransferObserver

__all__ = ["CanceledTransfer", "JobSync", "NullObserver", "SyncEngine", "SyncError", "TransferObserver"]

_MODULES = {
    "CanceledTransfer": "errors",
    "JobSync": "job_sync",
    "NullObserver": "observer",
    "SyncEngine": "engine",
    "SyncError": "errors",
    "TransferObserver": "observer",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
