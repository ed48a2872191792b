"""Where Redis is, and what it must keep."""

from __future__ import annotations

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings

from kelpie.errors import StartupError

RQ_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
REDIS_SCHEMES = (*RQ_SCHEMES, "redis+cluster", "rediss+cluster")


class RedisSettings(BaseSettings):
    """A part of :class:`kelpie.config.Settings`."""

    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        description=(
            "Where Redis or Valkey is: redis://, rediss:// (TLS), unix://, redis+sentinel:// or redis+cluster://."
        ),
    )
    rq_url: str | None = Field(
        default=None,
        description=(
            "Where the queue of webhook deliveries is, when not in KELPIE_REDIS_URL. Needed when that is a "
            "cluster, on which RQ does not work."
        ),
    )
    wait_replicas: int = Field(
        default=0,
        ge=0,
        le=16,
        description=(
            "Replicas of Redis that must have a change before it is acknowledged, a count; "
            "without them a failover can lose the last changes."
        ),
    )
    redis_wait_s: float = Field(
        default=30,
        ge=0,
        le=3600,
        description="How long a starting process waits for Redis before it gives up, in seconds.",
    )
    allow_volatile: bool = Field(
        default=False,
        description="Accept a Redis that keeps nothing on disk: every job is lost with it. For trials only.",
    )

    @field_validator("redis_url")
    @classmethod
    def _is_redis_url(cls, value: str) -> str:
        return _with_scheme(value, REDIS_SCHEMES)

    @field_validator("rq_url")
    @classmethod
    def _is_rq_url(cls, value: str | None) -> str | None:
        return None if value is None else _with_scheme(value, RQ_SCHEMES)

    @property
    def deliveries_url(self) -> str:
        """Where RQ is. Raises StartupError when only a cluster is known."""
        if self.rq_url is None and "+cluster" in self.redis_url.partition("://")[0]:
            raise StartupError(
                "KELPIE_REDIS_URL is a cluster, on which RQ does not work: set KELPIE_RQ_URL to one server "
                "or to Sentinels."
            )
        return self.rq_url or self.redis_url


def _with_scheme(url: str, schemes: tuple[str, ...]) -> str:
    if url.partition("://")[0] not in schemes or "://" not in url:
        raise ValueError(f"it must begin with {'://, '.join(schemes)}://")
    return url
