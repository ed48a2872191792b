"""Which S3 client the engine speaks through, and how that is configured.

boto3's own checksums are switched to ``when_required``, because it would send trailers that R2 and B2 refuse.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Literal, cast
from urllib.parse import urlsplit

from kelpie_worker.sync.errors import SyncError
from kelpie_worker.sync.settings import SyncSettings
from kelpie_worker.sync.transport import (
    LeanClient,
    custom_endpoint,
    from_boto3,
    from_environment,
    region_of_environment,
)
from kelpie_worker.sync.transport.endpoint import AMAZON, DEFAULT_REGION

if TYPE_CHECKING:
    from boto3.session import Session
    from mypy_boto3_s3 import S3Client

RENEW_S = 0.4
"""The credentials are read anew at most this often; less than the first pause between two tries."""


class ClientFactory:
    """The process's client, made at first use: a worker without data to move never loads boto3.

    It is the lean one where that can serve, with boto3's names, arguments and errors; else boto3's.
    """

    def __init__(self, settings: SyncSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._client: S3Client | None = None
        self._made = 0.0

    def __call__(self) -> S3Client:
        """The client; SyncError when boto3 refuses its configuration."""
        with self._lock:
            if self._client is None:
                self._client = self._choose()
                self._made = time.monotonic()
            return self._client

    def renew(self) -> None:
        """Read the credentials anew at the next call: the store says that those in use have expired, even
        if they say otherwise."""
        with self._lock:
            if time.monotonic() - self._made > RENEW_S:  # once for all the requests that were under way
                self._client = None

    def where(self) -> str:
        """The endpoint that the client speaks to."""
        return self().meta.endpoint_url

    def _choose(self) -> S3Client:
        if self._settings.transport == "boto3":
            return self._boto3()[0]
        if (endpoint := from_environment()) is not None:
            client = LeanClient(
                endpoint, lambda: self._boto3()[0], stall_timeout_s=self._settings.stall_timeout_s
            )
            return cast("S3Client", client)
        boto3, session = self._boto3()
        if (endpoint := from_boto3(boto3, session)) is None:
            return boto3
        return cast(
            "S3Client",
            LeanClient(endpoint, lambda: boto3, stall_timeout_s=self._settings.stall_timeout_s),
        )

    def _boto3(self) -> tuple[S3Client, Session]:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
        from botocore.handlers import add_expect_header

        session = boto3.session.Session()

        def client(addressing: Literal["auto", "path"]) -> S3Client:
            config = Config(
                retries={"total_max_attempts": 1, "mode": "standard"},  # ours know the job's gate
                # a connection keeps the connect timeout while it sends, block by block: one stall limit
                connect_timeout=self._settings.stall_timeout_s,
                read_timeout=self._settings.stall_timeout_s,
                max_pool_connections=self._settings.threads + 4,
                tcp_keepalive=True,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": addressing, "payload_signing_enabled": False},
            )
            region = region_of_environment() or session.region_name or DEFAULT_REGION
            return session.client("s3", config=config, region_name=region)

        try:
            custom = bool(custom_endpoint())
            made = client("path" if custom else "auto")
            host = urlsplit(made.meta.endpoint_url).hostname or ""
            if not custom and not host.endswith(AMAZON):
                made = client("path")  # an endpoint from the shared configuration file
        except (BotoCoreError, ValueError) as error:
            raise SyncError(f"the storage client cannot be configured: {error}") from error
        # "Expect: 100-continue" costs a round trip per part and hangs with stores that are slow to answer it
        made.meta.events.unregister("before-call.s3", add_expect_header)
        return made, session
