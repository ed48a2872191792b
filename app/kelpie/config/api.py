"""How the API serves, and how its processes begin, log and end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, FilePath, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode

MIN_ADMIN_KEY_CHARS = 32
MIN_TOKEN_CHARS = 16


class ApiSettings(BaseSettings):
    """A part of :class:`kelpie.config.Settings`."""

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
    request_timeout_s: float = Field(
        default=30,
        ge=1,
        le=3600,
        description=(
            "How long a client may take to send the head of its first request, and then its body, "
            "in seconds; a large body has longer."
        ),
    )
    rate_submit_per_s: float = Field(
        default=5000,
        ge=0,
        le=1_000_000,
        description="Submits (a batch is one) that a user may make, per second; 0: without limit.",
    )
    rate_work_per_s: float = Field(
        default=20_000,
        ge=0,
        le=1_000_000,
        description="Polls, heartbeats and reports of a user's nodes, per second; 0: without limit.",
    )
    rate_read_per_s: float = Field(
        default=5000,
        ge=0,
        le=1_000_000,
        description="Other requests that a user may make, per second; 0: without limit.",
    )
    failed_logins_per_minute: int = Field(
        default=120,
        ge=0,
        le=1_000_000,
        description="Unknown credentials that may come from one address, per minute; 0: without limit.",
    )
    trusted_proxies: int = Field(
        default=0,
        ge=0,
        le=8,
        description=(
            "Proxies in front of the API that add the client's address to X-Forwarded-For, a count; "
            "with 0 that header is not believed."
        ),
    )
    metrics_token: SecretStr | None = Field(
        default=None,
        description="A bearer token that may read /metrics, 16 characters or more; the admin's key may too.",
    )
    metrics_queues: int = Field(
        default=100,
        ge=0,
        le=10_000,
        description="Queues that have metrics of their own, a count: those with the most jobs.",
    )
    session_s: int = Field(
        default=43_200,
        ge=60,
        le=30 * 86_400,
        description="How long a browser stays logged in to the dashboard, in seconds.",
    )
    log_bytes_per_job: int = Field(
        default=256 * 1024,
        ge=0,
        le=64 * 1024 * 1024,
        description=(
            "What is kept of the output of a job's commands, in bytes as it is packed (five to ten times as "
            "much text); the newest stays. 0: nothing is kept."
        ),
    )
    log_days: float = Field(
        default=30,
        gt=0,
        le=3660,
        description="How long a job's output is kept after its last line, in days.",
    )
    progress_days: float = Field(
        default=30,
        ge=0,
        le=3660,
        description="How long it is kept how a job's progress was over time, and what was moved for it, "
        "after the last word on that, in days. 0: not at all.",
    )
    tls_cert_file: FilePath | None = Field(
        default=None,
        description="A certificate (PEM, with its chain) that the API serves HTTPS with; none: plain HTTP, "
        "for a proxy in front.",
    )
    tls_key_file: FilePath | None = Field(
        default=None, validate_default=True, description="The private key (PEM) of KELPIE_TLS_CERT_FILE."
    )
    drain_delay_s: float = Field(
        default=0,
        ge=0,
        le=600,
        description=(
            "How long a stopping API goes on serving while /readyz says that it is not ready, in seconds, "
            "so that load balancers notice."
        ),
    )
    shutdown_grace_s: int = Field(
        default=30,
        ge=1,
        le=3600,
        description="How long a stopping process lets requests and deliveries in progress end, in seconds.",
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

    @field_validator("tls_key_file")
    @classmethod
    def _goes_with_its_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if "tls_cert_file" in info.data and (value is None) != (info.data["tls_cert_file"] is None):
            raise ValueError("it goes with KELPIE_TLS_CERT_FILE: set both, or none")
        return value

    @field_validator("metrics_token")
    @classmethod
    def _is_no_word(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < MIN_TOKEN_CHARS:
            raise ValueError(f"it must have {MIN_TOKEN_CHARS} characters or more")
        return value

    @field_validator("admin_key")
    @classmethod
    def _is_long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < MIN_ADMIN_KEY_CHARS:
            raise ValueError(f"it must have {MIN_ADMIN_KEY_CHARS} characters or more")
        return value
