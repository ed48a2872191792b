"""Kelpie shepherds long-running jobs to completion on machines that may vanish at any second."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kelpie.client import Client

__version__: str
__all__ = ["Client", "__version__"]


def __getattr__(name: str) -> Any:
    # Lazily: the worker imports kelpie.job and must not pay for the HTTP client, nor a command line for a
    # search through what is installed.
    if name == "Client":
        from kelpie.client import Client

        return Client
    if name == "__version__":
        from importlib.metadata import version

        return version("kelpie-jobs")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
