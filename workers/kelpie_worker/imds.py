"""The metadata service of the node: asks the provider for another machine or a fresh container."""

from __future__ import annotations

import json
from typing import Any, Protocol

import structlog
import urllib3

_TIMEOUT = urllib3.Timeout(connect=3, read=10)
_TRIES = 3

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


class Provider(Protocol):
    """Whom a worker asks for another machine or a fresh container."""

    def reallocate(self, reason: str) -> bool:
        """Ask for another machine; False: refused, or nobody is there."""

    def recreate(self) -> bool:
        """Ask for a fresh container; False: refused, or nobody is there."""


class NobodyToAsk:
    """The provider of a slot: its supervisor hears by an exit code what it wants, and asks."""

    def reallocate(self, reason: str) -> bool:  # noqa: ARG002 -- the interface's
        """Nobody is there."""
        return False

    def recreate(self) -> bool:
        """Nobody is there."""
        return False


class MetadataService:
    """SaladCloud's instance metadata service, or anything that answers like it.

    See https://docs.salad.com (Instance Metadata Service): ``POST /v1/reallocate`` with a reason, ``POST
    /v1/recreate`` and ``POST /v1/restart`` without, ``PUT /v1/deletion-cost`` with a number; every
    request carries ``Metadata: true``.
    """

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._http = urllib3.PoolManager(timeout=_TIMEOUT, retries=urllib3.Retry(_TRIES - 1, redirect=0))

    def reallocate(self, reason: str) -> bool:
        """Ask for this container to be moved to another machine; False: refused, or nobody is there."""
        return self._post("/v1/reallocate", {"reason": reason[:1000]})

    def recreate(self) -> bool:
        """Ask for this container to be made anew from its image; False: refused, or nobody is there."""
        return self._post("/v1/recreate", None)

    def set_deletion_cost(self, cost: int) -> bool:
        """Say what the end of this node would cost, as a rank among its group; False: nobody takes it."""
        return self._send("PUT", "/v1/deletion-cost", {"deletion_cost": cost})

    def _post(self, path: str, body: dict[str, Any] | None) -> bool:
        return self._send("POST", path, body)

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> bool:
        headers = {"Metadata": "true", "Content-Type": "application/json"}
        try:
            answer = self._http.request(
                method,
                self._base_url + path,
                body=None if body is None else json.dumps(body),
                headers=headers,
            )
        except urllib3.exceptions.HTTPError as error:
            _log.warning("the metadata service cannot be reached", path=path, error=str(error))
            return False
        if answer.status >= 300:
            _log.warning("the metadata service refused", path=path, status=answer.status)
            return False
        return True
