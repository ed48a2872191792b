"""What every transfer of one job needs to know."""

from __future__ import annotations

from dataclasses import dataclass

from kelpie_worker.sync.fencing import Fence
from kelpie_worker.sync.gate import Gate
from kelpie_worker.sync.observer import TransferObserver
from kelpie_worker.sync.settings import SyncSettings
from kelpie_worker.sync.store import Store
from kelpie_worker.sync.uploads import Uploads


@dataclass(frozen=True, slots=True)
class JobContext:
    """One attempt at one job, as its transfers see it."""

    job_id: str
    attempt: int
    compression: bool
    settings: SyncSettings
    store: Store
    fence: Fence
    uploads: Uploads
    gate: Gate
    observer: TransferObserver
