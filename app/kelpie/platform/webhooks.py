"""One webhook: what it says, how it is signed (Standard Webhooks), how it is sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import urllib3
from standardwebhooks.webhooks import Webhook

import kelpie
from kelpie.platform.guard import Target

MAX_ADDRESSES = 3


class DeliveryError(Exception):
    """The receiver could not be reached, or did not say 2xx; worth another try."""


@dataclass(frozen=True, slots=True)
class Message:
    """What a receiver is told."""

    id: str  # the same at every try, so that a receiver can drop repetitions
    status: str  # running, completed or failed
    job_id: str
    machine_id: str | None
    container_group_id: str

    def body(self) -> bytes:
        """The JSON of the wire."""
        fields = {name: value for name, value in asdict(self).items() if name != "id"}
        return json.dumps(fields, separators=(",", ":")).encode()


def signed_headers(message_id: str, body: bytes, secret: str, now: datetime) -> dict[str, str]:
    """The headers that prove to the receiver that ``body`` comes from us and when it was sent."""
    return {
        "Content-Type": "application/json",
        "User-Agent": f"kelpie/{kelpie.__version__}",
        "X-Kelpie-Key": secret,
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(message_id, now.astimezone(UTC), body.decode()),
    }


def send(target: Target, body: bytes, headers: Mapping[str, str], *, timeout_s: float) -> int:
    """POST to ``target`` and return the 2xx status. Raises DeliveryError.

    Connects to the judged addresses only, follows no redirect, and reads nothing of the answer but its head.
    """
    failure: Exception | None = None
    for address in target.addresses[:MAX_ADDRESSES]:
        try:
            status = _post(target, address, body, headers, timeout_s)
        except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError) as error:
            failure = error  # this address does not answer; another one may
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise DeliveryError(f"{target.authority}: {type(error).__name__}") from None
        else:
            if 200 <= status < 300:
                return status
            raise DeliveryError(f"{target.authority} answered {status}")
    raise DeliveryError(f"{target.authority}: {type(failure).__name__}")


def _post(target: Target, address: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> int:
    kind: type[urllib3.HTTPConnectionPool] = urllib3.HTTPConnectionPool
    tls: dict[str, Any] = {}
    if target.scheme == "https":
        kind = urllib3.HTTPSConnectionPool
        tls = {"server_hostname": target.host, "assert_hostname": target.host}
    timeout = urllib3.Timeout(connect=timeout_s, read=timeout_s)
    with kind(address, target.port, timeout=timeout, retries=False, maxsize=1, **tls) as pool:
        response = pool.urlopen(
            "POST",
            target.path,
            body=body,
            headers={**headers, "Host": target.authority, "Connection": "close"},
            redirect=False,
            preload_content=False,
        )
        try:
            return response.status
        finally:
            response.close()
