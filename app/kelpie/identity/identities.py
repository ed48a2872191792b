"""The identity services of one process, as its settings name them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kelpie.config import Settings
from kelpie.errors import StartupError
from kelpie.identity.key_set import KeySet
from kelpie.identity.node_tokens import ClaimNames, NodeTokens
from kelpie.identity.organization_keys import OrganizationKeys

if TYPE_CHECKING:
    from kelpie.identity.oidc import OpenIdLogin


@dataclass(frozen=True, slots=True)
class Identities:
    """Whom to ask about credentials that are not ours; None: nobody, and such credentials count as none."""

    organization_keys: OrganizationKeys | None = None
    node_tokens: NodeTokens | None = None
    login: OpenIdLogin | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Identities:
        """The services that the settings name."""
        return cls(_organization_keys(settings), _node_tokens(settings), _login(settings))


def _organization_keys(settings: Settings) -> OrganizationKeys | None:
    if settings.auth_url is None:
        return None
    return OrganizationKeys(
        settings.auth_url,
        user=settings.auth_user,
        password=settings.auth_password.get_secret_value() if settings.auth_password else "",
        timeout_s=settings.auth_timeout_s,
        keep_s=settings.auth_cache_s,
        refusal_s=settings.auth_refusal_cache_s,
        outage_s=settings.auth_outage_s,
    )


def _node_tokens(settings: Settings) -> NodeTokens | None:
    if settings.jwks_url is None:
        return None
    keys = KeySet(
        settings.jwks_url,
        timeout_s=settings.auth_timeout_s,
        keep_s=settings.jwks_cache_s,
        renew_after_s=settings.jwks_renew_after_s,
        outage_s=settings.auth_outage_s,
        ca_file=settings.jwks_ca_file,
        token_file=settings.jwks_token_file,
    )
    names = ClaimNames(
        machine_id=settings.jwt_machine_claim,
        organization=settings.jwt_organization_claim,
        workload_id=settings.jwt_workload_claim,
        workload_name=settings.jwt_workload_name_claim,
    )
    return NodeTokens(
        keys,
        names,
        leeway_s=settings.jwt_leeway_s,
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
    )


def _login(settings: Settings) -> OpenIdLogin | None:
    if settings.oidc_issuer is None or settings.oidc_redirect_url is None:
        return None
    try:
        from kelpie.identity.oidc import Client, OpenIdLogin
    except ModuleNotFoundError as error:
        raise StartupError(
            f"KELPIE_OIDC_ISSUER needs {error.name}: pip install 'kelpie-jobs[server,oidc]'."
        ) from None
    secret = settings.oidc_client_secret
    client = Client(
        id=settings.oidc_client_id,
        secret=secret.get_secret_value() if secret else None,
        redirect_url=settings.oidc_redirect_url,
        scopes=settings.oidc_scopes,
    )
    return OpenIdLogin(
        settings.oidc_issuer,
        client,
        claim=settings.oidc_claim,
        timeout_s=settings.auth_timeout_s,
        ca_file=settings.oidc_ca_file,
    )
