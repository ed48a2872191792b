"""Kelpie shepherds long-running jobs to completion on machines that may vanish at any second."""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kelpie.client import Client

__version__ = _version("kelpie-jobs")
__all__ = ["Client", "__version__"]


def __getattr__(name: str) -> Any:
    # Lazily: the worker imports kelpie.job and must not pay for the HTTP client.
    if name == "Client":
        from kelpie.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
