"""What runs behind the scenes: the reaper, the janitor, webhooks and events, the autoscaler."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings


class PlatformSettings(BaseSettings):
    """A part of :class:`kelpie.config.Settings`."""

    reap_interval_s: float = Field(
        default=0.5,
        gt=0,
        le=60,
        description="How often the platform looks for expired leases in every queue, in seconds.",
    )
    retention_days: int = Field(
        default=0,
        ge=0,
        le=36_500,
        description=(
            "Completed, failed and canceled jobs and their records are deleted this long after their end, in "
            "days; 0 keeps them for ever."
        ),
    )
    webhook_workers: int = Field(
        default=1, ge=1, le=64, description="Processes that deliver webhooks, a count."
    )
    webhook_timeout_s: float = Field(
        default=10,
        gt=0,
        le=120,
        description="How long one try of a webhook may take, from connecting to the head of the answer, "
        "in seconds.",
    )
    webhook_allow_private: bool = Field(
        default=False,
        description="Deliver webhooks to private and loopback addresses too; for trials on one machine.",
    )
    webhook_keep_s: int = Field(
        default=7 * 24 * 3600,
        ge=24 * 3600,
        le=366 * 24 * 3600,
        description="How long the record of a webhook delivery that has ended is kept, in seconds.",
    )
    webhook_keep_count: int = Field(
        default=10_000,
        ge=1000,
        le=1_000_000,
        description="How many records of ended webhook deliveries are kept per user, a count.",
    )
    webhook_max_queued: int = Field(
        default=100_000,
        ge=1000,
        le=10_000_000,
        description="How many webhook deliveries of one user may wait, a count; further ones are dropped.",
    )
    event_stream_s: float = Field(
        default=3600,
        ge=1,
        le=86_400,
        description="How long one event stream lasts before its client must resume it, in seconds.",
    )
    event_streams_per_user: int = Field(
        default=200,
        ge=1,
        le=100_000,
        description="How many event streams one user may have open in each process of the API, a count.",
    )

    autoscale_interval_s: float = Field(
        default=300,
        ge=0.1,
        le=86_400,
        description="How often a scaling rule is evaluated even if its queue does not change, in seconds.",
    )
    autoscale_cooldown_s: float = Field(
        default=60,
        ge=0,
        le=86_400,
        description="How long a container group keeps its replicas after a change before it may shrink, "
        "in seconds.",
    )
