from __future__ import annotations

import socket
from typing import Any

import pytest

from kelpie.platform import guard

PUBLIC = "93.184.216.34"


def answering(*addresses: str) -> guard.Resolve:
    """A name server that knows every name by these addresses."""

    def getaddrinfo(_host: str, port: int, **_hints: Any) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    return getaddrinfo


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254",  # noqa: S104  (nothing binds)
        "192.0.2.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00:ec2::254",
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::", "ff02::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_on_the_internet_are_refused(address: str) -> None:
    assert not guard.is_public(address)
    with pytest.raises(guard.RefusedError, match="not a public address") as refused:
        guard.resolve("https://example.org/", allow_private=False, getaddrinfo=answering(address))
    assert address not in str(refused.value)
    assert address in refused.value.detail


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_addresses_on_the_internet_pass(address: str) -> None:
    target = guard.resolve("https://example.org/x?y=1", allow_private=False, getaddrinfo=answering(address))
    assert target == guard.Target("https", "example.org", 443, (address,), "/x?y=1")


def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    with pytest.raises(guard.RefusedError):
        guard.resolve("https://a.example/", allow_private=False, getaddrinfo=answering(PUBLIC, "10.0.0.1"))


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "[::1]", "[::ffff:127.0.0.1]", "localhost"],
)
def test_no_way_to_write_loopback_passes(host: str) -> None:
    with pytest.raises((guard.RefusedError, guard.UnresolvedError)):
        guard.resolve(f"http://{host}/", allow_private=False)


@pytest.mark.parametrize(
    "url",
    [
        "gopher://8.8.8.8/", "file:///etc/passwd", "https://", "https://user@8.8.8.8/",
        "https://8.8.8.8/\r\nX-A: b",
        "https://8.8.8.8:99999/", "https://8.8.8.8\\@127.0.0.1/", "nonsense", "http://[::1",
    ],
)  # fmt: skip
def test_what_is_no_plain_url_is_refused_even_where_private_addresses_are_allowed(url: str) -> None:
    with pytest.raises(guard.RefusedError):
        guard.resolve(url, allow_private=True)


def test_the_operator_may_allow_private_addresses() -> None:
    target = guard.resolve("http://127.0.0.1:8000/hook", allow_private=True)
    assert (target.addresses, target.port, target.authority) == (("127.0.0.1",), 8000, "127.0.0.1:8000")


def test_a_name_without_address_may_have_one_later() -> None:
    def getaddrinfo(*_args: Any, **_hints: Any) -> list[tuple[Any, ...]]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(guard.UnresolvedError):
        guard.resolve("https://gone.example/", allow_private=False, getaddrinfo=getaddrinfo)


def test_the_host_header_names_ports_and_brackets_only_when_needed() -> None:
    def authority(scheme: str, host: str, port: int) -> str:
        return guard.Target(scheme, host, port, (PUBLIC,), "/").authority

    assert authority("https", "a.example", 443) == "a.example"
    assert authority("https", "a.example", 80) == "a.example:80"
    assert authority("http", "::1", 80) == "[::1]"


@pytest.mark.parametrize(
    ("url", "receiver"),
    [
        ("https://A.example/x?y", "a.example:443"),
        ("http://a.example:8080", "a.example:8080"),
        ("http://[::1]/", "::1:80"),
        ("http://[::1", ""),
        ("nonsense", ":0"),
    ],
)
def test_a_receiver_is_a_host_and_a_port(url: str, receiver: str) -> None:
    assert guard.receiver_of(url) == receiver
