"""Compute providers: who runs the replicas of a container group. One small interface, one module each."""

from __future__ import annotations

from kelpie.config import Settings
from kelpie.errors import StartupError
from kelpie.providers.base import Provider, ProviderError, UnknownPlaceError
from kelpie.providers.cloud import Cloud
from kelpie.providers.kubernetes import KubernetesProvider
from kelpie.providers.local import LocalProvider
from kelpie.providers.salad import SaladProvider
from kelpie.store import Store
from kelpie.store.nodes import NodeState

__all__ = [
    "KubernetesProvider",
    "LocalProvider",
    "Provider",
    "ProviderError",
    "SaladProvider",
    "UnknownPlaceError",
    "make_provider",
]


def make_provider(settings: Settings, store: Store) -> Provider:
    """The provider that ``KELPIE_PROVIDER`` names. Raises StartupError when it lacks something."""
    match settings.provider:
        case "local":
            return LocalProvider(store.groups)
        case "salad":
            return _salad(settings)
        case "kubernetes":
            return _kubernetes(settings, store)


def _salad(settings: Settings) -> SaladProvider:
    if settings.salad_api_key is None:
        raise StartupError("KELPIE_PROVIDER is salad, which needs KELPIE_SALAD_API_KEY.")
    headers = {"Salad-Api-Key": settings.salad_api_key.get_secret_value()}
    cloud = Cloud(
        "SaladCloud", settings.salad_api_url, lambda: headers, timeout_s=settings.provider_timeout_s
    )
    return SaladProvider(
        cloud,
        slots=settings.provider_slots,
        organization=settings.salad_organization,
        project=settings.salad_project,
    )


def _kubernetes(settings: Settings, store: Store) -> KubernetesProvider:
    def headers() -> dict[str, str]:
        file = settings.kubernetes_token_file
        try:
            return {"Authorization": f"Bearer {file.read_text().strip()}"}
        except OSError as error:
            problem = f"KELPIE_KUBERNETES_TOKEN_FILE: {file} cannot be read: {error.strerror}."
            raise ProviderError(problem) from None

    def busy(group_id: str) -> frozenset[str]:
        owner = store.rules.get(group_id).user_id
        return frozenset(node.name for node in store.nodes(owner, group_id) if node.state is NodeState.BUSY)

    cloud = Cloud(
        "Kubernetes",
        settings.kubernetes_url,
        headers,
        timeout_s=settings.provider_timeout_s,
        ca_file=settings.kubernetes_ca_file if settings.kubernetes_ca_file.exists() else None,
    )
    return KubernetesProvider(cloud, settings.kubernetes_home, busy, slots=settings.provider_slots)
