"""The lean client as tests of it make it."""

from __future__ import annotations

from typing import Any

import pytest

from kelpie_worker.sync.clients import ClientFactory
from kelpie_worker.sync.settings import SyncSettings
from kelpie_worker.sync.transport import LeanClient


def factory(**settings: Any) -> ClientFactory:
    return ClientFactory(SyncSettings(**({"stall_timeout_s": 5.0} | settings)))


def lean() -> LeanClient:
    client = factory()()
    assert isinstance(client, LeanClient)
    client._boto3 = lambda: pytest.fail("boto3 was asked")  # type: ignore[method-assign]
    return client


def read(body: Any) -> bytes:
    pieces, buffer = [], memoryview(bytearray(50_000))
    while size := body.readinto(buffer):
        pieces.append(bytes(buffer[:size]))
    body.close()
    return b"".join(pieces)
