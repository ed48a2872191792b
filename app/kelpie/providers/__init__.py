"""Compute providers: who runs the replicas of a container group. One small interface, one module each."""

from __future__ import annotations

from kelpie.config import Settings
from kelpie.providers.base import Provider, ProviderError
from kelpie.providers.local import LocalProvider
from kelpie.store import Store

__all__ = ["LocalProvider", "Provider", "ProviderError", "make_provider"]


def make_provider(settings: Settings, store: Store) -> Provider:
    """The provider that ``KELPIE_PROVIDER`` names."""
    match settings.provider:
        case "local":
            return LocalProvider(store.groups)
