"""The settings of the server processes (`kelpie api`, `kelpie platform`), read from the environment once.

Every setting is an environment variable: ``KELPIE_`` and the field's name in capitals. A bad value is refused
by name at start. The worker has settings of its own (kelpie_worker.settings) and does not import this.
"""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, FilePath, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from kelpie.errors import StartupError

ENV_PREFIX = "KELPIE_"
MIN_ADMIN_KEY_CHARS = 32
MIN_TOKEN_CHARS = 16

RQ_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
REDIS_SCHEMES = (*RQ_SCHEMES, "redis+cluster", "rediss+cluster")


class Settings(BaseSettings):
    """What the server processes may be told. Frozen: read at start, the same until the end."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, extra="ignore", hide_input_in_errors=True
    )

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

    provider: Literal["local"] = Field(
        default="local",
        description="Who runs the replicas of container groups: local (hosts that report to this API).",
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

    auth_url: str | None = Field(
        default=None,
        description="The service that knows the API keys of organizations (Salad-Api-Key), asked by POST; "
        "without it such keys count as no credentials.",
    )
    auth_user: str = Field(default="", description="Basic-auth user that the auth service asks for.")
    auth_password: SecretStr | None = Field(
        default=None, description="Basic-auth password that the auth service asks for."
    )
    auth_timeout_s: float = Field(
        default=5,
        gt=0,
        le=60,
        description="How long the auth service and the JWKS URL may take to connect, and then to answer, in "
        "seconds.",
    )
    auth_cache_s: float = Field(
        default=300,
        ge=0,
        le=86_400,
        description="How long a good answer of the auth service is used, in seconds: a key that ends there "
        "ends here so much later at most.",
    )
    auth_refusal_cache_s: float = Field(
        default=10,
        ge=0,
        le=3600,
        description="How long a refusal of the auth service is used, in seconds.",
    )
    auth_outage_s: float = Field(
        default=900,
        ge=0,
        le=86_400,
        description="How much longer an answer of the auth service or the JWKS URL is used while that is "
        "down, in seconds.",
    )
    jwks_url: str | None = Field(
        default=None,
        description="Where the public keys of nodes' tokens (Authorization: Bearer) are published; without "
        "it such tokens count as no credentials.",
    )
    jwks_ca_file: FilePath | None = Field(
        default=None,
        description="Certificates (PEM) that the JWKS URL is trusted by, instead of the system's.",
    )
    jwks_token_file: FilePath | None = Field(
        default=None, description="A file with the bearer token that the JWKS URL asks for."
    )
    jwks_cache_s: float = Field(
        default=3600,
        ge=0,
        le=86_400,
        description="How long the keys of the JWKS URL are used, in seconds.",
    )
    jwks_renew_after_s: float = Field(
        default=30,
        ge=1,
        le=3600,
        description="How old the keys of the JWKS URL must be to be fetched anew for a token that is signed "
        "by an unknown one, in seconds.",
    )
    jwt_audience: str | None = Field(
        default=None, description="The audience (aud) that a node's token must have; none: any or none."
    )
    jwt_issuer: str | None = Field(
        default=None, description="The issuer (iss) that a node's token must have; none: any or none."
    )
    jwt_leeway_s: int = Field(
        default=30,
        ge=0,
        le=600,
        description="By how much clocks may differ when a node's token begins or ends, in seconds.",
    )
    jwt_machine_claim: str = Field(
        default="salad_machine_id",
        min_length=1,
        description="The claim that names the machine; a name, or a JSON pointer (/kubernetes.io/pod/uid).",
    )
    jwt_organization_claim: str = Field(
        default="salad_organization_name",
        min_length=1,
        description="The claim that names the organization, hence the user; a name or a JSON pointer.",
    )
    jwt_workload_claim: str = Field(
        default="salad_workload_id",
        min_length=1,
        description="The claim that names the workload, if a token has it; a name or a JSON pointer.",
    )
    jwt_workload_name_claim: str = Field(
        default="salad_workload_name",
        min_length=1,
        description="The claim that holds the workload's name for people; a name or a JSON pointer.",
    )
    jwt_bind_workload: bool = Field(
        default=False,
        description="Give a node work of the container group only that its token names as its workload.",
    )

    @field_validator("auth_url", "jwks_url")
    @classmethod
    def _is_http_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("it must begin with http:// or https:// and name a host")
        if parts.username is not None or parts.password is not None:
            raise ValueError("it must not hold a user name or password; there are settings for these")
        return value

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


def _with_scheme(url: str, schemes: tuple[str, ...]) -> str:
    if url.partition("://")[0] not in schemes or "://" not in url:
        raise ValueError(f"it must begin with {'://, '.join(schemes)}://")
    return url


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
