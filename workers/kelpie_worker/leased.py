"""A job as its node holds it: what to run, what to move, and the lease that proves the right to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kelpie.job import LEASE_INTERVALS, JobSpec, Sync
from kelpie_worker.settings import Settings


@dataclass(frozen=True, slots=True)
class LeasedJob:
    """One attempt at one job on this node. Immutable; what happens to it lives elsewhere."""

    id: str
    attempt: int  # 1, 2, 3 …
    command: str
    fence: int = 0  # strictly increasing over the leases of a queue
    lease: str | None = field(default=None, repr=False)  # the secret; None from a server that knows no leases
    heartbeat_interval: int = 30  # seconds
    max_runtime_s: int | None = None  # from its lease: the attempt has failed then
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold the user's secrets
    compression: bool = False
    sync: Sync = field(default_factory=Sync)

    @property
    def lease_s(self) -> int:
        """How long the lease lasts without a heartbeat, in seconds."""
        return LEASE_INTERVALS * self.heartbeat_interval

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any], settings: Settings) -> LeasedJob:
        """The job that ``GET /work`` hands out.

        The legacy form of sync becomes a plan by the folders of the settings. Raises KeyError, TypeError or
        ValueError when the object is no job.
        """
        return cls.from_spec(
            JobSpec.from_wire(wire),
            settings,
            job_id=str(wire["id"]),
            # a server of Kelpie 0.5 to 0.7 numbers no attempts: every one is the first
            attempt=int(wire.get("attempt") or 1),
            fence=int(wire.get("fence") or 0),
            lease=wire.get("lease"),
        )

    @classmethod
    def from_spec(
        cls, spec: JobSpec, settings: Settings, *, job_id: str, attempt: int, fence: int, lease: str | None
    ) -> LeasedJob:
        """An attempt at the job that ``spec`` defines."""
        sync = spec.sync
        if sync is None and spec.legacy is not None:
            sync = spec.legacy.to_sync(
                input_dir=settings.input_dir,
                checkpoint_dir=settings.checkpoint_dir,
                output_dir=settings.output_dir,
            )
        return cls(
            id=job_id,
            attempt=attempt,
            fence=fence,
            lease=lease,
            heartbeat_interval=spec.heartbeat_interval,
            max_runtime_s=spec.max_runtime_s,
            command=spec.command,
            arguments=spec.arguments,
            environment=spec.environment,
            compression=spec.compression,
            sync=sync or Sync(),
        )
