"""Which addresses webhooks may reach: nothing inside our own network, unless the operator says so.

A name is resolved once, every address it has is judged, and the delivery connects to a judged address:
a second answer of the name server (DNS rebinding) is never asked for.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

PORTS = {"http": 80, "https": 443}
NAT64 = ipaddress.ip_network("64:ff9b::/96")
SIX_TO_FOUR = ipaddress.ip_network("2002::/16")
SIX_TO_FOUR_RELAYS = ipaddress.ip_network("192.88.99.0/24")
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")

Resolve = Callable[..., list[tuple[Any, ...]]]
"""The signature of :func:`socket.getaddrinfo`."""


class RefusedError(Exception):
    """This URL must not be called, now or later. The text may be shown to users, ``detail`` is for logs."""

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class UnresolvedError(Exception):
    """The name has no address now; it may have one later."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads: the name for TLS and the Host header, and the addresses that were judged."""

    scheme: str
    host: str
    port: int
    addresses: tuple[str, ...]
    path: str  # with the query

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def resolve(url: str, *, allow_private: bool, getaddrinfo: Resolve = socket.getaddrinfo) -> Target:
    """Where ``url`` leads. RefusedError: it must not be called. UnresolvedError: it has no address now."""
    try:
        parts = urlsplit(url)
        port = parts.port or PORTS.get(parts.scheme, 0)
    except ValueError:
        raise RefusedError("it is not a URL") from None
    if parts.scheme not in PORTS or not parts.hostname or parts.username is not None:
        raise RefusedError("it is not a plain http or https URL")
    if any(character <= " " or character == "\\" for character in url):
        raise RefusedError("it contains a space, a control character or a backslash")
    try:
        found = getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UnresolvedError(f"{parts.hostname} has no address") from None
    addresses = tuple(dict.fromkeys(str(item[4][0]) for item in found))
    if not addresses:
        raise UnresolvedError(f"{parts.hostname} has no address")
    if not allow_private and (private := [address for address in addresses if not is_public(address)]):
        # What our name server knows of our own network is nobody's business.
        raise RefusedError(
            f"{parts.hostname} is not a public address (KELPIE_WEBHOOK_ALLOW_PRIVATE=true permits it)",
            f"it is {private[0]}",
        )
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, parts.hostname, port, addresses, path)


def receiver_of(url: str) -> str:
    """The host and port that a URL names: deliveries to one receiver share its fate. Never raises."""
    try:
        parts = urlsplit(url)
        return f"{parts.hostname or ''}:{parts.port or PORTS.get(parts.scheme, 0)}"
    except ValueError:
        return ""


def is_public(address: str) -> bool:
    """Whether ``address`` is a host on the internet, also behind the ways to write IPv4 inside IPv6."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # with a zone, so link-local
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip in NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        if ip not in GLOBAL_UNICAST or ip in SIX_TO_FOUR or ip.teredo is not None:
            return False
    elif ip in SIX_TO_FOUR_RELAYS:
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)
