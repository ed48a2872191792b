"""Who runs the replicas of container groups, and how it is reached."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes puts the identity of a pod."""


class ProviderSettings(BaseSettings):
    """A part of :class:`kelpie.config.Settings`."""

    salad_api_key: SecretStr | None = Field(
        default=None, description="The SaladCloud API key that the provider `salad` scales groups with."
    )
    salad_api_url: str = Field(
        default="https://api.salad.com/api/public", description="Where SaladCloud's public API is."
    )
    salad_organization: str | None = Field(
        default=None,
        description="The SaladCloud organization in which the admin's groups are looked for; other users' "
        "are in the one that their key is bound to.",
    )
    salad_project: str | None = Field(
        default=None, description="The SaladCloud project in which the admin's groups are looked for."
    )
    kubernetes_url: str = Field(
        default="https://kubernetes.default.svc", description="Where the API of the Kubernetes cluster is."
    )
    kubernetes_namespace: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
        description="The namespace whose Deployments the provider `kubernetes` scales; none: this pod's.",
    )
    kubernetes_token_file: Path = Field(
        default=SERVICE_ACCOUNT / "token",
        description="A file with the bearer token for the Kubernetes API; read anew at every call.",
    )
    kubernetes_ca_file: Path = Field(
        default=SERVICE_ACCOUNT / "ca.crt",
        description="Certificates (PEM) that the Kubernetes API is trusted by.",
    )
    provider_slots: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="Jobs that one replica runs at once (workers in it), for the providers `salad` and "
        "`kubernetes`; a count.",
    )
    provider_timeout_s: float = Field(
        default=30,
        ge=0.1,
        le=300,
        description="How long one call of a provider may take with all its tries, in seconds.",
    )
    provider: Literal["local", "salad", "kubernetes"] = Field(
        default="local",
        description="Who runs the replicas of container groups: local (hosts that report to this API), "
        "salad (SaladCloud) or kubernetes (Deployments).",
    )

    @field_validator("salad_api_url", "kubernetes_url")
    @classmethod
    def _is_safe_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.username is not None or parts.password is not None or parts.query:
            raise ValueError("it must not hold a user name, a password or a query")
        if not parts.hostname or (parts.scheme != "https" and not _is_loopback(value)):
            raise ValueError("it must begin with https:// and name a host: a key goes there")
        return value.rstrip("/")

    @field_validator("provider")
    @classmethod
    def _has_what_it_needs(cls, value: str, info: ValidationInfo) -> str:
        # A field that is wrong is not among the data, and has been named.
        if value == "salad" and "salad_api_key" in info.data and info.data["salad_api_key"] is None:
            raise ValueError("it needs KELPIE_SALAD_API_KEY or KELPIE_SALAD_API_KEY_FILE")
        if (
            value == "kubernetes"
            and info.data.get("kubernetes_namespace", "") is None
            and not (SERVICE_ACCOUNT / "namespace").exists()
        ):
            raise ValueError("it needs KELPIE_KUBERNETES_NAMESPACE outside of a pod")
        return value

    @property
    def kubernetes_home(self) -> str:
        """The namespace whose Deployments are scaled."""
        return self.kubernetes_namespace or (SERVICE_ACCOUNT / "namespace").read_text().strip()


def _is_loopback(url: str) -> bool:
    """Whether a plain http:// URL stays on this machine."""
    parts = urlsplit(url)
    if parts.scheme != "http":
        return False
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return parts.hostname == "localhost"
