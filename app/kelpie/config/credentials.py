"""Whom the API believes about credentials that are not its own: organizations' keys and nodes' tokens."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, FilePath, SecretStr, field_validator
from pydantic_settings import BaseSettings


class CredentialSettings(BaseSettings):
    """A part of :class:`kelpie.config.Settings`."""

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
