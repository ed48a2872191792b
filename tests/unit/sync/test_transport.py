"""The lean client: it says what boto3 says, and leaves to boto3 what it does not know."""

from __future__ import annotations

import datetime
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast
from unittest import mock

import pytest
from botocore.exceptions import ClientError

from kelpie_worker.sync.describe import error_code
from kelpie_worker.sync.errors import (
    CanceledTransfer,
    SourceChanged,
    StorageError,
    SyncError,
)
from kelpie_worker.sync.gate import Gate
from kelpie_worker.sync.store import Store
from kelpie_worker.sync.transport import Body, LeanClient, Slice, crc32_of, from_boto3, from_environment
from kelpie_worker.sync.transport.signing import Credentials, Signer
from tests.fault_proxy import RESET_MID, TRUNCATE, Answer, FaultProxy, error, is_fetch, is_put, times
from tests.unit.sync.clients import factory, lean, read
from tests.unit.sync.conftest import PART, Bucket

ODD_KEYS = ["plain", "a b+c%20d", "ünï/€/日本", "~t'(x)!*", 'quote"&<>', "q?x=1#y", "tail/"]


@pytest.fixture
def store(emptied_store: Bucket) -> Bucket:
    return emptied_store


# ---- signatures


@pytest.mark.parametrize("token", [None, "a/token=="])
@pytest.mark.parametrize("key", ODD_KEYS)
def test_a_signature_is_the_one_that_botocore_makes(key: str, token: str | None) -> None:
    from urllib.parse import quote

    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials as TheirCredentials

    moment = datetime.datetime(2026, 11, 24, 1, 2, 3, tzinfo=datetime.UTC)
    path, query = "/bucket/" + quote(key, safe="/~"), "partNumber=1&uploadId=a%2Fb"
    headers = {"x-amz-meta-note": "two  spaces", "x-amz-checksum-crc32": "AAAAAA=="}
    request = AWSRequest("PUT", f"http://store.test:9000{path}?{query}", headers=dict(headers))
    request.context["client_config"] = mock.Mock(s3={"payload_signing_enabled": False})
    with mock.patch("botocore.auth.get_current_datetime", return_value=moment.replace(tzinfo=None)):
        S3SigV4Auth(TheirCredentials("AKID", "secret", token), "s3", "eu-west-3").add_auth(request)
    signer = Signer(lambda: Credentials("AKID", "secret", token), "eu-west-3", now=moment.timestamp)
    ours = signer.headers("PUT", path, query, {"host": "store.test:9000", **headers})
    assert ours["authorization"] == request.headers["Authorization"]


def test_renewed_credentials_sign_the_next_request(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [Credentials("first", "1", None), Credentials("second", "2", "t")]
    signer = Signer(lambda: keys[0], "r")
    first = signer.headers("GET", "/", "", {"host": "h"})
    keys.pop(0)
    second = signer.headers("GET", "/", "", {"host": "h"})
    assert "Credential=first/" in first["authorization"]
    assert "Credential=second/" in second["authorization"]
    assert second["x-amz-security-token"] == "t"


# ---- against the real server


@pytest.mark.parametrize("hours", [-400 * 24, -1, 1, 400 * 24])
def test_a_machine_whose_clock_is_wrong_signs_by_the_clock_of_the_storage(store: Bucket, hours: int) -> None:
    client = lean()
    client.put_object(Bucket=store.name, Key="k", Body=Body(b"before", lambda: None))

    def look() -> str:
        try:
            client.head_object(Bucket=store.name, Key="k")
        except StorageError as refusal:
            return error_code(refusal)
        return "found"

    def is_wrong_by(seconds: float) -> None:
        client._signer._now = lambda: time.time() + seconds
        # All that were signed before the storage was heard are refused, and each is worth another try.
        with ThreadPoolExecutor(4) as pool:
            told = list(pool.map(lambda _: look(), range(4)))
        assert "RequestTimeTooSkewed" in told
        assert set(told) <= {"RequestTimeTooSkewed", "found"}
        assert look() == "found"

    is_wrong_by(hours * 3600)
    is_wrong_by(0)  # it was set right


def test_a_refusal_is_no_word_about_the_clock_unless_the_clocks_differ(store: Bucket) -> None:
    client = lean()
    client._signer._credentials = lambda: Credentials("nobody", "secret", None)
    with pytest.raises(StorageError) as refusal:
        client.head_object(Bucket=store.name, Key="k")
    assert error_code(refusal.value) == "403"
    assert not client._signer.heed("no date", "20261124T010203Z", 0.0)


def test_a_refusal_at_the_end_of_a_slow_upload_says_nothing_of_clocks() -> None:
    signer = Signer(lambda: Credentials("AKID", "secret", None), "r")
    assert not signer.heed("Tue, 24 Nov 2026 01:12:03 GMT", "20261124T010203Z", 600.0)
    assert signer.heed("Tue, 24 Nov 2026 01:12:03 GMT", "20261124T010203Z", 1.0)


@pytest.mark.parametrize("key", ODD_KEYS[:-1])
def test_an_object_goes_there_and_back_without_boto3(store: Bucket, key: str) -> None:
    client, data = lean(), os.urandom(200_000)
    stored = client.put_object(
        Bucket=store.name,
        Key=key,
        Body=Body(data, lambda: None),
        ContentLength=len(data),
        ContentType="text/x-odd",
        Metadata={"note": "n"},
    )
    there = store.client.get_object(Bucket=store.name, Key=key)
    assert there["Body"].read() == data
    assert (there["ETag"], there["Metadata"], there["ContentType"]) == (
        stored["ETag"],
        {"note": "n"},
        "text/x-odd",
    )
    assert [each["Key"] for each in client.list_objects_v2(Bucket=store.name, Prefix="")["Contents"]] == [key]
    got = client.get_object(Bucket=store.name, Key=key, Range="bytes=10-99", IfMatch=stored["ETag"])
    assert (read(got["Body"]), got["ContentRange"]) == (data[10:100], f"bytes 10-99/{len(data)}")
    client.delete_object(Bucket=store.name, Key=key)
    assert store.names() == set()


def test_answers_and_errors_are_those_of_boto3(store: Bucket) -> None:
    ours, theirs = lean(), factory(transport="boto3")()
    store.put("x", b"123", Metadata={"a": "b"})
    head = {"Bucket": store.name, "Key": "x", "ChecksumMode": "ENABLED"}
    told = theirs.head_object(**head)  # type: ignore[arg-type]
    assert ours.head_object(**head).items() <= told.items()
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("head_object", {"Key": "none"}),
        ("get_object", {"Key": "none"}),
        ("get_object", {"Key": "x", "IfMatch": '"0"'}),
        ("list_objects_v2", {"Bucket": "no-such-bucket-here"}),
        ("complete_multipart_upload", {"Key": "x", "UploadId": "0" * 32, "MultipartUpload": {"Parts": []}}),
    ]
    for name, arguments in wrong:
        said = []
        for client in (ours, theirs):
            with pytest.raises((StorageError, ClientError)) as refused:
                getattr(client, name)(**{"Bucket": store.name, **arguments})
            response = cast("Any", refused.value).response
            said.append((response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]))
        assert said[0] == said[1], name


def test_a_file_is_sent_in_parts_by_the_kernel_and_checked_by_the_store(
    store: Bucket, tmp_path: Path
) -> None:
    data = os.urandom(PART + 12_345)
    (tmp_path / "file").write_bytes(b"before" + data)
    engine_store = Store(factory(), Gate(lambda: True), max_tries=1)
    with (tmp_path / "file").open("rb") as file:
        upload_id = engine_store.create(store.name, "x", {"a": "b"})
        slices = [Slice(file.fileno(), 6, PART), Slice(file.fileno(), 6 + PART, 12_345)]
        parts = [
            engine_store.part(store.name, "x", upload_id, number, piece)
            for number, piece in enumerate(slices, 1)
        ]
        engine_store.complete(store.name, "x", upload_id, parts, size=len(data), metadata={"a": "b"})
        assert store.get("x") == data
        slices[0]._crc32 = crc32_of(b"something else")
        with pytest.raises(SyncError, match=r"BadDigest|hecksum"):
            engine_store.put(store.name, "y", slices[0], {})
    assert store.names() == {"x"}


@pytest.mark.parametrize("transport", ["auto", "boto3"])
@pytest.mark.parametrize("fault", [error(503, "SlowDown"), RESET_MID, TRUNCATE])
def test_both_clients_get_over_what_passes(
    store: Bucket, proxy: FaultProxy, tmp_path: Path, quick_retries: None, transport: str, fault: Answer | str
) -> None:
    data = os.urandom(300_000)
    (tmp_path / "file").write_bytes(data)
    engine_store = Store(factory(transport=transport), Gate(lambda: True), max_tries=4)
    proxy.rule = times(1, fault, is_put)
    with (tmp_path / "file").open("rb") as file:
        etag = engine_store.put(store.name, "x", Slice(file.fileno(), 0, len(data)), {})
    proxy.rule = times(1, fault, is_fetch)
    got = bytearray(len(data))

    def write(offset: int, block: memoryview) -> None:
        got[offset : offset + len(block)] = block

    _, value = engine_store.fetch(
        store.name, "x", etag=etag, start=0, length=len(data), write=write, whole=True
    )
    assert bytes(got) == data
    assert value == crc32_of(data)
    ours = all("boto" not in request.headers.get("User-Agent", "").lower() for request in proxy.requests)
    assert ours is (transport == "auto")


@pytest.mark.parametrize("transport", ["auto", "boto3"])
def test_an_abandoned_job_stops_within_a_body(store: Bucket, tmp_path: Path, transport: str) -> None:
    (tmp_path / "file").write_bytes(bytes(8 << 20))
    engine_store, asked = Store(factory(transport=transport), Gate(lambda: True), max_tries=4), []

    def ask() -> None:
        asked.append(1)
        if len(asked) > 3:
            raise CanceledTransfer("abandoned")

    with (tmp_path / "file").open("rb") as file:
        piece = Slice(file.fileno(), 0, 8 << 20)
        piece.crc32()
        piece.verify = ask
        with pytest.raises(CanceledTransfer):
            engine_store.put(store.name, "x", piece, {})
    assert len(asked) == 4
    assert store.names() == set()


@pytest.mark.parametrize("transport", ["auto", "boto3"])
@pytest.mark.parametrize("shrinks", [True, False])
def test_a_file_that_changes_or_shrinks_on_its_way_is_not_stored(
    store: Bucket, tmp_path: Path, shrinks: bool, transport: str
) -> None:
    path, asked = tmp_path / "file", []
    path.write_bytes(bytes(8 << 20))

    def verify() -> None:
        asked.append(1)
        if len(asked) > 2:
            if not shrinks:
                raise SourceChanged("it changed")
            os.truncate(path, 100)

    engine_store = Store(factory(transport=transport), Gate(lambda: True), max_tries=4)
    with path.open("rb") as file:
        piece = Slice(file.fileno(), 0, 8 << 20)
        piece.crc32()
        piece.verify = verify
        with pytest.raises(SourceChanged):
            engine_store.put(store.name, "x", piece, {})
    assert len(asked) < 10  # at once: another try would send the same
    assert store.names() == set()


# ---- what is left to boto3


@pytest.mark.parametrize(
    "refusal",
    [
        Answer(301, b"<Error><Code>PermanentRedirect</Code></Error>"),
        error(400, "AuthorizationHeaderMalformed"),
        error(403, "SignatureDoesNotMatch"),
    ],
)
def test_a_storage_that_it_does_not_understand_is_left_to_boto3_for_good(
    store: Bucket, proxy: FaultProxy, refusal: Answer
) -> None:
    def rule(request: Any) -> Answer | None:
        return None if "boto" in request.headers.get("User-Agent", "").lower() else refusal

    proxy.rule = rule
    engine_store = Store(factory(), Gate(lambda: True), max_tries=1)
    for number in range(3):
        engine_store.put(store.name, f"x{number}", b"data" * 50_000, {})
    assert store.contents() == {f"x{number}": b"data" * 50_000 for number in range(3)}
    assert len(proxy.requests) == 4


def test_a_call_that_it_does_not_know_is_left_to_boto3(store: Bucket) -> None:
    client = cast("Any", factory()())
    assert isinstance(client, LeanClient)
    client.put_object(Bucket=store.name, Key="x", Body=b"plain bytes", Tagging="a=b")
    assert client.list_buckets()["Buckets"]
    assert store.get("x") == b"plain bytes"


@pytest.mark.parametrize(
    ("variable", "value", "known"),
    [
        ("AWS_REGION", "", False),
        ("AWS_SECRET_ACCESS_KEY", "", False),
        ("AWS_ENDPOINT_URL_S3", "", False),
        ("HTTP_PROXY", "http://127.0.0.1:1", False),
        ("AWS_CREDENTIAL_EXPIRATION", "2030-01-01T00:00:00Z", False),
        ("AWS_CONFIG_FILE", __file__, False),
        ("AWS_SESSION_TOKEN", "t", True),
    ],
)
def test_what_the_environment_alone_does_not_say_is_looked_up_by_boto3(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, known: bool
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    environment = {
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_REGION": "r",
        "AWS_ENDPOINT_URL_S3": "http://store.test",
        "AWS_CONFIG_FILE": "/nowhere",
        variable: value,
    }
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    assert (from_environment() is not None) is known
    if variable == "HTTP_PROXY":
        monkeypatch.setenv("NO_PROXY", "store.test")
        assert from_environment() is not None


def test_amazons_buckets_are_parts_of_the_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, text in {
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_REGION": "eu-west-3",
    }.items():
        monkeypatch.setenv(name, text)
    client = factory()()
    assert isinstance(client, LeanClient)
    seen = [client._request(_head(), {"Bucket": name, "Key": "a b"}) for name in ("bucket", "with.dots")]
    hosts = [(address.host, path, headers["host"]) for address, path, headers, _, _ in seen]
    amazon = "s3.eu-west-3.amazonaws.com"
    assert hosts == [
        (f"bucket.{amazon}", "/a%20b", f"bucket.{amazon}"),
        (amazon, "/with.dots/a%20b", amazon),
    ]
    assert from_boto3(*factory()._boto3()) is not None


def _head() -> Any:
    from kelpie_worker.sync.transport.lean import _HEAD

    return _HEAD
