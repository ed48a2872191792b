"""The identity services of one process, as its settings name them."""

from __future__ import annotations

from dataclasses import dataclass

from kelpie.config import Settings
from kelpie.identity.key_set import KeySet
from kelpie.identity.node_tokens import ClaimNames, NodeTokens
from kelpie.identity.organization_keys import OrganizationKeys


@dataclass(frozen=True, slots=True)
class Identities:
    """Whom to ask about credentials that are not ours; None: nobody, and such credentials count as none."""

    organization_keys: OrganizationKeys | None = None
    node_tokens: NodeTokens | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Identities:
        """The services that the settings name."""
        return cls(_organization_keys(settings), _node_tokens(settings))


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
