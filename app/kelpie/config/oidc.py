"""How people log in to the dashboard through a provider of identities (OpenID Connect), beside API keys."""

from __future__ import annotations

from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, FilePath, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})


class OidcSettings(BaseSettings):
    """A part of :class:`kelpie.config.Settings`."""

    oidc_issuer: str | None = Field(
        default=None,
        description="The issuer that people may log in to the dashboard through (OpenID Connect), such as "
        "https://login.example.org/realms/lab; needs the extra [oidc]. None: with API keys only.",
    )
    oidc_client_id: str = Field(default="", description="What this Kelpie is called there.")
    oidc_client_secret: SecretStr | None = Field(
        default=None, description="Its secret there; none: a public client, held by PKCE alone."
    )
    oidc_redirect_url: str | None = Field(
        default=None,
        description="Where the issuer sends browsers back to, as it is registered there: the address of "
        "this Kelpie and /ui/oidc/callback.",
    )
    oidc_scopes: str = Field(
        default="openid email", description="What is asked for, separated by blanks; openid is among it."
    )
    oidc_claim: str = Field(
        default="email",
        min_length=1,
        description="The claim of the ID token that is the name of a user of this Kelpie. Of email, only "
        "one that the issuer has verified counts (email_verified).",
    )
    oidc_create_users: bool = Field(
        default=False,
        description="Make a user for whoever logs in and has none: only for an issuer that knows nobody but "
        "your own people. Otherwise he is refused until the admin has made one.",
    )
    oidc_org_name: str = Field(
        default="default", min_length=1, description="The organization that they act for."
    )
    oidc_project_name: str = Field(
        default="default", min_length=1, description="The project that they act for."
    )
    oidc_ca_file: FilePath | None = Field(
        default=None, description="Certificates (PEM) that the issuer is trusted by, instead of the system's."
    )

    @field_validator("oidc_issuer", "oidc_redirect_url")
    @classmethod
    def _is_https_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if not parts.hostname or parts.query or parts.fragment or parts.username is not None:
            raise ValueError("it must be a URL with a host, without user, query and fragment")
        if parts.scheme != "https" and (parts.scheme != "http" or parts.hostname not in LOOPBACK_HOSTS):
            raise ValueError("it must begin with https://; http:// is for this machine only")
        return value

    @field_validator("oidc_scopes")
    @classmethod
    def _has_openid(cls, value: str) -> str:
        if "openid" not in value.split():
            raise ValueError("openid must be among the scopes")
        return value

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.oidc_issuer is not None and not (self.oidc_client_id and self.oidc_redirect_url):
            raise ValueError(
                "KELPIE_OIDC_ISSUER needs KELPIE_OIDC_CLIENT_ID and KELPIE_OIDC_REDIRECT_URL beside it"
            )
        return self
