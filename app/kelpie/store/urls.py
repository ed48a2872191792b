"""What a Redis URL says: one server, a primary that Sentinels know, or a cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.connection import parse_url

from kelpie.errors import StartupError

SCHEMES = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)
"""The schemes that Kelpie takes; ``rediss`` speaks TLS."""

SENTINEL_PORT = 26379
CLUSTER_PORT = 6379
MAX_HOSTS = 64

TLS_OPTIONS = frozenset(
    {"ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"}
)
SENTINEL_OPTIONS = frozenset({"sentinel_username", "sentinel_password"})


class Kind(StrEnum):
    """How the server is found."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A URL, taken apart. Never printed: it holds passwords."""

    kind: Kind
    text: str = field(repr=False)
    hosts: tuple[tuple[str, int], ...] = ()  # of the Sentinels, or of some nodes of the cluster
    service: str = ""  # what the Sentinels call the primary
    options: dict[str, Any] = field(default_factory=dict, repr=False)  # for connections to servers
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)  # for those to Sentinels


def read_url(text: str) -> RedisUrl:
    """Takes a URL apart. Raises StartupError, whose text shows nothing of the URL but its scheme."""
    scheme = text.partition("://")[0]
    if scheme not in SCHEMES:
        raise StartupError(
            "The Redis URL is malformed; write redis://[user:password@]host:port/db, with special characters "
            f"of the password as %XX. Its scheme may be {', '.join(SCHEMES)}."
        )
    plain, _, way = scheme.partition("+")
    try:
        if not way:
            return RedisUrl(Kind.SINGLE, text)
        return _read_many(text, Kind(way), tls=plain == "rediss")
    except ValueError:  # whose text may hold a piece of the password
        example = (
            "host1:26379,host2:26379/name-of-primary/0" if way == "sentinel" else "host1:6379,host2:6379"
        )
        raise StartupError(
            f"The Redis URL is malformed; write {scheme}://[user:password@]{example}, with special "
            "characters of the password as %XX."
        ) from None


def _read_many(text: str, kind: Kind, *, tls: bool) -> RedisUrl:
    rest = text.partition("://")[2]
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    # of several hosts, newer Pythons take none in brackets
    parts = urlsplit("//host" + rest.removeprefix(authority))
    credentials, _, places = authority.rpartition("@")
    port = SENTINEL_PORT if kind is Kind.SENTINEL else CLUSTER_PORT
    hosts = tuple(_host(place, port) for place in places.split(","))
    if len(hosts) > MAX_HOSTS:
        raise ValueError("too many hosts")
    path = [unquote(part) for part in parts.path.split("/") if part]
    query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    allowed = TLS_OPTIONS | (SENTINEL_OPTIONS if kind is Kind.SENTINEL else frozenset())
    if not query.keys() <= allowed:
        raise ValueError("unknown option")
    # redis-py's own reading of credentials and options, through a URL of one host.
    told = "&".join(f"{name}={value}" for name, value in query.items() if name in TLS_OPTIONS)
    url = f"redis://{credentials}{'@' if credentials else ''}host/?{told}"
    read: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]  # redis-py leaves it so
    options = {name: value for name, value in read.items() if name not in {"host", "port", "db"}}
    if tls:
        options["ssl"] = True
    if kind is Kind.CLUSTER:
        if path not in ([], ["0"]):
            raise ValueError("a cluster has one database")
        return RedisUrl(kind, text, hosts, "", options)
    if not 1 <= len(path) <= 2:
        raise ValueError("no name of the primary")
    sentinel = {name: value for name, value in options.items() if name.startswith("ssl")}
    for name in SENTINEL_OPTIONS & query.keys():
        sentinel[name.removeprefix("sentinel_")] = query[name]
    options["db"] = int(path[1]) if len(path) == 2 else 0
    return RedisUrl(kind, text, hosts, path[0], options, sentinel)


def _host(place: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{place}")
    if not parts.hostname or parts.path:
        raise ValueError("no host")
    return parts.hostname, parts.port or default_port
