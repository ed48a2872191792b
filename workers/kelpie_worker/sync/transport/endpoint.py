"""Where the storage is and who we are there; what the lean client does not know is left to boto3."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kelpie_worker.sync.transport.signing import Credentials

if TYPE_CHECKING:
    from boto3.session import Session
    from mypy_boto3_s3 import S3Client

DEFAULT_REGION = "us-east-1"
AMAZON = (".amazonaws.com", ".amazonaws.com.cn")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_UNKNOWN_OPTIONS = ("use_accelerate_endpoint", "use_dualstack_endpoint")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One storage service."""

    scheme: str
    host: str
    port: int
    base: str
    """What stands before the bucket in every path: empty, or begins with a slash."""
    by_host: bool
    """Whether a bucket is a part of the host's name rather than of the path."""
    region: str
    credentials: Callable[[], Credentials]
    tls: ssl.SSLContext | None

    @property
    def netloc(self) -> str:
        """The host as requests name it, with the port unless it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _port(self.scheme) else f"{host}:{self.port}"


def region_of_environment() -> str | None:
    """The region that the environment names, as any AWS SDK does (boto3 knows the second name only)."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


def custom_endpoint() -> str | None:
    """The endpoint that the environment names."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def from_environment() -> Endpoint | None:
    """The endpoint, when the environment alone says everything; None when boto3 must look.

    This is what boto3 would find, without the fifth of a second that loading it takes.
    """
    environ = os.environ
    url, region = custom_endpoint(), region_of_environment()
    access_key, secret_key = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if not (url and region and access_key and secret_key):
        return None
    if environ.get("AWS_CREDENTIAL_EXPIRATION") or environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"):
        return None
    if Path(environ.get("AWS_CONFIG_FILE", "~/.aws/config")).expanduser().exists():
        return None
    token = environ.get("AWS_SESSION_TOKEN") or environ.get("AWS_SECURITY_TOKEN")
    keys = Credentials(access_key, secret_key, token)
    return _endpoint(url, region, lambda: keys, environ.get("AWS_CA_BUNDLE"), by_host=False)


def from_boto3(client: S3Client, session: Session) -> Endpoint | None:
    """The endpoint as a boto3 client was configured; None when that is beyond the lean client."""
    config = client.meta.config
    options = getattr(config, "s3", None) or {}
    source = session.get_credentials()
    if (
        source is None
        or getattr(config, "signature_version", None) != "s3v4"
        or any(options.get(name) for name in _UNKNOWN_OPTIONS)
        or getattr(config, "use_fips_endpoint", None)
        or getattr(config, "use_dualstack_endpoint", None)
        or getattr(config, "proxies", None)
        or getattr(config, "client_cert", None)
    ):
        return None

    def credentials() -> Credentials:
        keys = source.get_frozen_credentials()  # renewed when they are about to expire
        return Credentials(keys.access_key or "", keys.secret_key or "", keys.token)

    url = client.meta.endpoint_url
    return _endpoint(
        url,
        client.meta.region_name,
        credentials,
        os.environ.get("AWS_CA_BUNDLE"),
        by_host=(urlsplit(url).hostname or "").endswith(AMAZON),
    )


def _endpoint(
    url: str, region: str, credentials: Callable[[], Credentials], ca_bundle: str | None, *, by_host: bool
) -> Endpoint | None:
    try:
        parts = urlsplit(url)
        port = parts.port or _port(parts.scheme)
    except ValueError:
        return None  # boto3 says what is wrong with it
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or _proxied(url):
        return None
    tls = None
    if parts.scheme == "https":
        try:
            tls = ssl.create_default_context(cafile=ca_bundle or None)
        except OSError:
            return None
    return Endpoint(
        parts.scheme, parts.hostname, port, parts.path.rstrip("/"), by_host, region, credentials, tls
    )


def _port(scheme: str) -> int:
    return 443 if scheme == "https" else 80


def _proxied(url: str) -> bool:
    """Whether a proxy stands before the endpoint, by the variables that every client heeds."""
    if not any(os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXIES):
        return False
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    proxies = getproxies()
    return bool(proxies.get(parts.scheme) or proxies.get("all")) and not proxy_bypass(parts.netloc)
