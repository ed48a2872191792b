"""The settings of the server processes (`kelpie api`, `kelpie platform`), read from the environment once.

Every setting is an environment variable: ``KELPIE_`` and the field's name in capitals. A bad value is refused
by name at start. The worker has settings of its own (kelpie_worker.settings) and does not import this.
"""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from kelpie.errors import StartupError

ENV_PREFIX = "KELPIE_"
MIN_ADMIN_KEY_CHARS = 32


class Settings(BaseSettings):
    """What the server processes may be told. Frozen: read at start, the same until the end."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, extra="ignore", hide_input_in_errors=True
    )

    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        description="Where Redis or Valkey is: redis://, rediss:// or unix://.",
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
    admin_key: SecretStr | None = Field(
        default=None,
        description="The API key of the admin, 32 characters or more; a new value replaces the old key.",
    )
    log_level: Literal["debug", "info", "warning", "error", "critical"] = Field(
        default="info", description="The least severe log lines that are written."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("*",),
        description="Origins of web pages that may call the API, separated by commas; * means every origin.",
    )
    max_body_bytes: int = Field(
        default=16 * 1024 * 1024,
        ge=1024,
        le=1024 * 1024 * 1024,
        description="The largest request body that is read, in bytes; a larger one is answered 413.",
    )
    shutdown_grace_s: int = Field(
        default=30,
        ge=1,
        le=3600,
        description="How long a stopping process lets requests and deliveries in progress end, in seconds.",
    )
    reap_interval_s: float = Field(
        default=0.5,
        gt=0,
        le=60,
        description="How often the platform looks for expired leases in every queue, in seconds.",
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
        description="How long one event stream lasts before its client must resume it, in seconds; "
        "bounds how long a key that was revoked still hears.",
    )

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(origin.strip().rstrip("/") for origin in value.split(",") if origin.strip())
        return value

    @field_validator("redis_url")
    @classmethod
    def _is_redis_url(cls, value: str) -> str:
        if urlsplit(value).scheme not in {"redis", "rediss", "unix"}:
            raise ValueError("it must begin with redis://, rediss:// or unix://")
        return value

    @field_validator("admin_key")
    @classmethod
    def _is_long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < MIN_ADMIN_KEY_CHARS:
            raise ValueError(f"it must have {MIN_ADMIN_KEY_CHARS} characters or more")
        return value


def load_settings() -> Settings:
    """The settings in the environment. Raises StartupError that names each bad variable, never its value."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = "; ".join(
            f"{ENV_PREFIX}{'_'.join(str(part) for part in item['loc']).upper()}: "
            f"{item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_input=False, include_url=False)
        )
        raise StartupError(f"A setting is wrong: {wrong}") from None
