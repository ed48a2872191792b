"""One webhook: what it says, how it is signed (Standard Webhooks), how it is sent."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from standardwebhooks.webhooks import Webhook

import kelpie
from kelpie.platform.guard import Target

MAX_ADDRESSES = 3
MAX_RETRY_AFTER_S = 3600


class DeliveryError(Exception):
    """No answer came; worth another try. The text shows neither path nor query of the URL."""


@dataclass(frozen=True, slots=True)
class Message:
    """What a receiver is told."""

    id: str  # the same at every try, so that a receiver can drop repetitions
    status: str  # what happened: running, completed, failed, or what else the job asked for
    job_id: str
    machine_id: str | None
    container_group_id: str

    def body(self) -> str:
        """The JSON of the wire."""
        fields = {name: value for name, value in asdict(self).items() if name != "id"}
        return json.dumps(fields, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Answer:
    """What the receiver said."""

    status: int
    retry_after_s: int = 0  # the pause that it asks for, within reason


def signed_headers(message_id: str, body: str, secrets: Sequence[str], now: datetime) -> dict[str, str]:
    """The headers that prove to the receiver that ``body`` comes from us and when it was sent.

    One signature per secret, the newest first: a receiver that knows one of them accepts the message.
    """
    moment = now.astimezone(UTC)
    return {
        "Content-Type": "application/json",
        "User-Agent": f"kelpie/{kelpie.__version__}",
        "X-Kelpie-Key": secrets[0],
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(message_id, moment, body) for secret in secrets),
    }


def send(target: Target, body: bytes, headers: Mapping[str, str], *, timeout_s: float) -> Answer:
    """POST to ``target``, within ``timeout_s`` seconds in all. Raises DeliveryError when no answer came.

    Connects to the judged addresses only, follows no redirect, uses no proxy, and reads nothing of the answer
    but its head, which is bounded (64 KiB a line, 100 lines).
    """
    deadline = time.monotonic() + timeout_s
    addresses = target.addresses[:MAX_ADDRESSES]
    for number, address in enumerate(addresses, 1):
        left_s = deadline - time.monotonic()
        try:
            connected = socket.create_connection(
                (address, target.port), max(0.001, left_s / (1 + len(addresses) - number))
            )
        except OSError as error:
            if number == len(addresses):
                raise DeliveryError(f"{target.authority}: {_reason(error)}") from None
            continue  # this address does not answer; another one may
        try:
            with connected, _cut_off(connected, deadline):
                answer = _exchange(connected, target, body, headers)
                if time.monotonic() >= deadline:  # a head that was cut off reads like one that ended
                    raise TimeoutError
                return answer
        except (OSError, http.client.HTTPException, ValueError) as error:
            late = time.monotonic() >= deadline
            reason = "it did not answer in time" if late else _reason(error)
            raise DeliveryError(f"{target.authority}: {reason}") from None
    raise DeliveryError(f"{target.authority}: it has no address")


def _exchange(connected: socket.socket, target: Target, body: bytes, headers: Mapping[str, str]) -> Answer:
    connected.settimeout(None)  # the cut-off ends every wait
    connection = http.client.HTTPConnection(target.host, target.port)
    if target.scheme == "https":
        connected = ssl.create_default_context().wrap_socket(connected, server_hostname=target.host)
    connection.sock = connected
    try:
        connection.putrequest("POST", target.path, skip_host=True, skip_accept_encoding=True)
        sent = {"Host": target.authority, **headers, "Connection": "close", "Content-Length": str(len(body))}
        for name, value in sent.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        with connection.getresponse() as response:
            return Answer(response.status, _retry_after_s(response.getheader("Retry-After")))
    finally:
        connection.close()


@contextmanager
def _cut_off(connected: socket.socket, deadline: float) -> Iterator[None]:
    """Ends the connection at the deadline, whoever drips how slowly."""
    # A duplicate: the thread must not touch the state of a TLS socket that another thread reads.
    with socket.socket(fileno=os.dup(connected.fileno())) as same:

        def cut() -> None:
            try:
                same.shutdown(socket.SHUT_RDWR)
            except OSError:  # the other side was faster
                return

        timer = threading.Timer(max(0.0, deadline - time.monotonic()), cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()


def _reason(error: Exception) -> str:
    """What went wrong, in words that show nothing of what was sent."""
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "it refused the connection"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"[:200]
    if isinstance(error, ssl.SSLError):
        return f"it does not speak TLS as it should ({error.reason or type(error).__name__})"[:200]
    if isinstance(error, http.client.RemoteDisconnected | ConnectionError):
        return "it closed the connection"
    if isinstance(error, http.client.HTTPException | ValueError):
        return f"its answer is not HTTP ({type(error).__name__})"
    number = error.errno if isinstance(error, OSError) else None
    return f"it cannot be reached ({os.strerror(number) if number else type(error).__name__})"


def _retry_after_s(header: str | None) -> int:
    """The seconds that a receiver asks for; a date is not understood."""
    if header is None or not header.isascii() or not header.isdigit() or len(header) > 9:
        return 0
    return min(int(header), MAX_RETRY_AFTER_S)
