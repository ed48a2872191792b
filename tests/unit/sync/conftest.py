"""A job's data against a real S3 server: what tests of the sync engine need."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kelpie.embedded.s3 import S3Server
from kelpie.job import Direction, Sync, SyncEntry
from kelpie_worker.leased import LeasedJob
from kelpie_worker.sync import JobSync, NullObserver, SyncEngine, TransferObserver, retry
from kelpie_worker.sync.settings import SyncSettings
from tests.fault_proxy import FaultProxy

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PART = 5 << 20


class Bucket:
    """The test's bucket as another program sees it."""

    def __init__(self, client: S3Client, name: str) -> None:
        self.client = client
        self.name = name

    def put(self, key: str, data: bytes = b"", **more: Any) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data, **more)

    def get(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()

    def metadata(self, key: str) -> dict[str, str]:
        return self.client.head_object(Bucket=self.name, Key=key)["Metadata"]

    def names(self) -> set[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return {each["Key"] for page in pages for each in page.get("Contents", ())}

    def contents(self) -> dict[str, bytes]:
        found = {}
        for key in self.names():
            with suppress(self.client.exceptions.NoSuchKey):  # deleted since it was listed
                found[key] = self.get(key)
        return found

    def multipart_uploads(self) -> list[str]:
        return [
            each["UploadId"]
            for each in self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", ())
        ]


@pytest.fixture(scope="session")
def s3_client(s3: S3Server) -> Iterator[S3Client]:
    client = s3.client()
    yield client
    client.close()


@pytest.fixture
def store(s3_client: S3Client, bucket: str) -> Bucket:
    return Bucket(s3_client, bucket)


@pytest.fixture(scope="session")
def common_bucket(s3: S3Server) -> str:
    """A bucket made once: this server takes its time over the first object of each."""
    s3.ensure_bucket(name := f"test-{uuid.uuid4().hex[:12]}")
    return name


@pytest.fixture
def emptied_store(s3_client: S3Client, common_bucket: str) -> Bucket:
    """That bucket, emptied."""
    store = Bucket(s3_client, common_bucket)
    for key in store.names():
        s3_client.delete_object(Bucket=common_bucket, Key=key)
    for each in s3_client.list_multipart_uploads(Bucket=common_bucket).get("Uploads", ()):
        s3_client.abort_multipart_upload(Bucket=common_bucket, Key=each["Key"], UploadId=each["UploadId"])
    return store


@pytest.fixture(autouse=True)
def storage_environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3's settings, for tests that use the server."""
    if "s3" in request.fixturenames:
        for name, value in request.getfixturevalue("s3").environment.items():
            monkeypatch.setenv(name, value)


@pytest.fixture
def proxy(s3: S3Server, storage_environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """What stands between the engine (made after this fixture) and the server."""
    with FaultProxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        yield proxy


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries of one request follow each other at once."""
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(retry, "LONGEST_PAUSE_S", 0.1)


class Engines:
    """Makes engines and jobs, and ends them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.temp_dir = home / "temp"
        self.temp_dir.mkdir()
        self.settings = SyncSettings(
            part_size=PART,
            threads=8,
            watcher_debounce_ms=50,
            watcher_max_wait_ms=500,
            watcher_stability_ms=50,
            temp_dir=self.temp_dir,
            stall_timeout_s=10.0,
            transport=os.environ.get("KELPIE_SYNC_TRANSPORT", "auto"),  # the whole suite over boto3, at will
        )
        self._engines: list[SyncEngine] = []
        self._probed: list[str] = []
        self._engine: SyncEngine | None = None

    def probed(self, bucket: str) -> None:
        """Engines made from now on know that the bucket keeps conditions: no object is sent twice."""
        self._probed.append(bucket)

    def engine(self, observer: TransferObserver | None = None, **settings: Any) -> SyncEngine:
        engine = SyncEngine(replace(self.settings, **settings), observer or NullObserver())
        for bucket in self._probed:
            engine._conditions.keeps(bucket)
        self._engines.append(engine)
        return engine

    def job(
        self,
        sync: Sync,
        *,
        engine: SyncEngine | None = None,
        may_write: Callable[[], bool] = lambda: True,
        **job: Any,
    ) -> JobSync:
        if engine is None:
            engine = self._engine = self._engine or self.engine()
        values: dict[str, Any] = {"id": str(uuid.uuid4()), "attempt": 1, "command": "true", "sync": sync}
        return engine.prepare(LeasedJob(**(values | job)), may_write=may_write)

    def close(self) -> None:
        for engine in self._engines:
            for job in list(engine._jobs):
                job.abandon()
                job.clean()
            engine.close()


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Engines]:
    engines = Engines(tmp_path)
    yield engines
    engines.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the job's folder is; nobody has made it yet."""
    return tmp_path / "job" / "data"


def down(bucket: str, prefix: str, local_path: Path | str, pattern: str | None = None) -> SyncEntry:
    return SyncEntry(bucket, prefix, str(local_path), Direction.DOWNLOAD, pattern)


def up(bucket: str, prefix: str, local_path: Path | str, pattern: str | None = None) -> SyncEntry:
    return SyncEntry(bucket, prefix, str(local_path), Direction.UPLOAD, pattern)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
