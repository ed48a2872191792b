"""Storage, network and disk in trouble: retried to success or failed with a clear reason, never torn.

Every case ends with a comparison of each object, or each file, with its source.
"""

from __future__ import annotations

import datetime
import gzip
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kelpie.embedded.processes import free_ports
from kelpie.embedded.s3 import S3Server
from kelpie.job import Sync
from kelpie_worker.sync import SyncError
from tests.fault_proxy import (
    FLIP_DOWN,
    FLIP_UP,
    RESET_AFTER,
    RESET_MID,
    STALL,
    STALL_MID,
    TRUNCATE,
    Answer,
    FaultProxy,
    Request,
    Rule,
    Slow,
    error,
    is_create,
    is_fetch,
    is_part,
    is_put,
    times,
)
from tests.unit.sync.conftest import PART, Bucket, Engines, down, tree, up

pytestmark = pytest.mark.usefixtures("quick_retries")

FILES = {
    "big": os.urandom(2 * PART + 7),
    "sub/deep/small": b"small",
    "empty": b"",
    "naïve ü+&%?#.bin": os.urandom(1000),
}


@pytest.fixture
def store(emptied_store: Bucket) -> Bucket:
    return emptied_store


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def upload(engines: Engines, store: Bucket, folder: Path, files: dict[str, bytes], **settings: Any) -> None:
    """The files as outputs of a job, and a comparison of what arrived."""
    job = engines.job(Sync(after=(up(store.name, "data/", folder),)), engine=engines.engine(**settings))
    write(folder, files)
    job.stage()
    job.finalize()
    job.clean()
    assert store.contents() == {f"data/{name}": data for name, data in files.items()}
    assert store.multipart_uploads() == []


def download(engines: Engines, store: Bucket, folder: Path, **settings: Any) -> None:
    """The objects as inputs of a job, and a comparison of what arrived."""
    job = engines.job(Sync(before=(down(store.name, "data/", folder),)), engine=engines.engine(**settings))
    job.download()
    assert {f"data/{name}": data for name, data in tree(folder).items()} == store.contents()


def has_body(request: Request) -> bool:
    return is_part(request) or is_put(request)


def every(number: int, action: Answer | str) -> Rule:
    """A rule: of so many requests one meets the action.

    Never one that begins a multipart upload: an upload whose id is lost is nobody's, and only a rule of the
    bucket's lifecycle can end it.
    """
    lock, count = threading.Lock(), [0]

    def rule(request: Request) -> Answer | str | None:
        with lock:
            count[0] += not is_create(request)
            return action if count[0] % number == 0 and not is_create(request) else None

    return rule


def anything(request: Request) -> bool:
    return True


PASSING: dict[str, Callable[[], Rule]] = {
    "a storm of 503": lambda: times(12, error(503, "SlowDown"), anything),
    "every third is 500": lambda: every(3, error(500, "InternalError")),
    "answers are lost": lambda: every(4, RESET_AFTER),
    "bodies break off": lambda: times(6, RESET_MID, lambda request: has_body(request) or is_fetch(request)),
    "answers are cut": lambda: every(3, TRUNCATE),
    "silence": lambda: times(3, STALL, anything),
    "silence within": lambda: times(3, STALL_MID, is_fetch),
    "bits flip on the way up": lambda: times(3, FLIP_UP, has_body),
    "bits flip on the way down": lambda: times(3, FLIP_DOWN, is_fetch),
}


@pytest.mark.parametrize(
    ("fault", "transport"),
    [
        *((fault, "") for fault in PASSING),
        ("answers are lost", "boto3"),
        ("bits flip on the way down", "boto3"),
    ],
)
def test_a_passing_fault_costs_time_and_nothing_else(
    engines: Engines,
    store: Bucket,
    folder: Path,
    tmp_path: Path,
    proxy: FaultProxy,
    fault: str,
    transport: str,
) -> None:
    early = fault == "bodies break off"
    settings = {"max_retries": 20, "stall_timeout_s": 0.4} | ({"transport": transport} if transport else {})
    setattr(proxy, "early" if early else "rule", PASSING[fault]())
    upload(engines, store, folder, FILES, **settings)
    proxy.early = lambda request: None
    proxy.rule = PASSING[fault]()
    download(engines, store, tmp_path / "down", **settings)


@pytest.mark.parametrize(
    ("fault", "matches", "why"),
    [
        (FLIP_UP, has_body, r"data/.*(BadDigest|checksum|Checksum|CRC)"),
        (error(403, "AccessDenied"), has_body, r"data/.*the credentials do not allow this.*AccessDenied"),
        (STALL, has_body, r"data/.*moved no byte for too long.*gave up after 3 tries"),
    ],
    ids=["flips", "403", "stall"],
)
def test_a_lasting_fault_on_the_way_up_fails_with_its_reason_and_leaves_nothing_half_done(
    engines: Engines,
    store: Bucket,
    folder: Path,
    proxy: FaultProxy,
    fault: Answer | str,
    matches: Callable[[Request], bool],
    why: str,
) -> None:
    proxy.rule = lambda request: fault if matches(request) else None
    with pytest.raises(SyncError, match=why):
        upload(engines, store, folder, FILES, max_retries=3, stall_timeout_s=0.3)
    assert store.contents().items() <= {("data/empty", b"")}  # in an empty body no bit flips
    assert store.multipart_uploads() == []


def test_a_slow_link_is_not_taken_for_a_stalled_one(
    engines: Engines, store: Bucket, folder: Path, tmp_path: Path, proxy: FaultProxy
) -> None:
    """50 KB/s, and a stall limit shorter than the transfer."""
    proxy.early = lambda request: Slow(50_000) if has_body(request) or is_fetch(request) else None
    engines.probed(store.name)
    files = {"x": os.urandom(40_000)}
    upload(engines, store, folder, files, stall_timeout_s=3.0)
    began = len(proxy.requests)
    download(engines, store, tmp_path / "down", stall_timeout_s=0.5)
    assert sum(map(is_fetch, proxy.requests[began:])) == 1
    assert sum(map(is_put, proxy.requests)) == 1


def test_a_server_that_is_killed_and_comes_back_has_everything_in_the_end(
    engines: Engines, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with S3Server(tmp_path / "s3") as server, FaultProxy(server.endpoint) as proxy:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        server.ensure_bucket("bucket")
        store = Bucket(server.client(), "bucket")
        parts, restarted = times(1, "", lambda request: "partNumber=2" in request.path), threading.Event()

        def rule(request: Request) -> None:
            if parts(request) is not None:
                server.kill()
                server.start()
                restarted.set()

        proxy.rule = rule
        upload(engines, store, folder, FILES, max_retries=100)
        assert restarted.is_set()


# ---- credentials


class Keys:
    """Hands out keys: first such as have expired, though they say that they last for an hour."""

    def __init__(self, s3: S3Server, tmp_path: Path) -> None:
        self._s3 = s3
        self.path = tmp_path / "keys.json"
        self.hand_out("OLDKEY")

    def hand_out(self, access_key: str) -> None:
        expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
        keys = {
            "Version": 1,
            "AccessKeyId": access_key,
            "SecretAccessKey": self._s3.secret_key,
            "Expiration": expires.isoformat(),
        }
        self.path.write_text(json.dumps(keys))


@pytest.fixture
def keys(s3: S3Server, tmp_path: Path) -> Keys:
    return Keys(s3, tmp_path)


@pytest.fixture
def container_credentials(keys: Keys) -> Iterator[str]:
    """The URL of a service such as those of ECS and EKS."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = json.loads(keys.path.read_text())
            body = json.dumps(given | {"Token": ""}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/keys"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("source", ["process", "container", "file"])
def test_expired_credentials_are_read_anew_from_where_they_come(
    engines: Engines,
    store: Bucket,
    folder: Path,
    tmp_path: Path,
    proxy: FaultProxy,
    s3: S3Server,
    keys: Keys,
    container_credentials: str,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    config, shared = tmp_path / "config", tmp_path / "credentials"
    config.write_text(f"[default]\ncredential_process = cat {keys.path}\n" if source == "process" else "")
    shared_keys = "[default]\naws_access_key_id = {}\naws_secret_access_key = " + s3.secret_key
    shared.write_text(shared_keys.format("OLDKEY") if source == "file" else "")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(shared))
    if source == "container":
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", container_credentials)

    def rule(request: Request) -> Answer | None:
        if "Credential=OLDKEY/" not in request.headers["authorization"]:
            return None
        keys.hand_out(s3.access_key)
        shared.write_text(shared_keys.format(s3.access_key) if source == "file" else "")
        return error(400, "ExpiredToken")

    proxy.rule = rule
    upload(engines, store, folder, FILES, max_retries=50)
    download(engines, store, tmp_path / "down")


def test_credentials_that_stay_expired_fail_with_that_reason(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    proxy.rule = lambda request: error(400, "ExpiredToken")
    with pytest.raises(SyncError, match="the credentials have expired"):
        upload(engines, store, folder, FILES, max_retries=2)
    assert store.contents() == {}


# ---- what an error says


def fails(engines: Engines, folder: Path, bucket: str) -> str:
    job = engines.job(Sync(before=(down(bucket, "data/", folder),)), engine=engines.engine(max_retries=2))
    with pytest.raises(SyncError) as failed:
        job.download()
    text = str(failed.value)
    assert text.startswith(f"list s3://{bucket}/data/: ")
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
        assert os.environ.get(name, "not set") not in text
    assert "Signature=" not in text.replace("Signature=[masked]", "")
    return text


def test_wrong_keys_are_told(
    engines: Engines, store: Bucket, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-right-secret")
    assert "the secret key does not belong to the access key" in fails(engines, folder, store.name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "UNKNOWNKEY")
    assert "the storage does not know this access key" in fails(engines, folder, store.name)


def test_missing_keys_are_told(
    engines: Engines, store: Bucket, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert "there are no credentials for the storage: set AWS_ACCESS_KEY_ID" in fails(
        engines, folder, store.name
    )


def test_a_missing_bucket_is_told(engines: Engines, store: Bucket, folder: Path) -> None:
    assert "there is no such bucket" in fails(engines, folder, "no-such-bucket-here")


def test_a_wrong_address_is_told(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_ports(1)[0]}")
    assert "nothing listens at the storage's address" in fails(engines, folder, store.name)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://no-such-host.invalid")
    assert "host cannot be resolved" in fails(engines, folder, store.name)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint.replace("http://", "https://"))
    assert "TLS with the storage failed" in fails(engines, folder, store.name)


def test_an_untrusted_certificate_is_told_at_once(
    engines: Engines, store: Bucket, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = tmp_path / "self-signed.pem"
    pem.write_bytes(_self_signed())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *args: None  # type: ignore[method-assign]  # the client hangs up on it
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"https://127.0.0.1:{server.server_port}")
    told = fails(engines, folder, store.name)
    assert "the storage's TLS certificate is refused: self-signed certificate" in told
    assert "gave up" not in told
    server.shutdown()
    server.server_close()


def test_what_a_hostile_storage_says_is_shown_short_on_one_line_and_without_credentials(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy, s3: S3Server
) -> None:
    def rule(request: Request) -> Answer:
        echo = request.headers["authorization"]
        text = f"no\nway\x1b[31m {echo} http://u:pw@h/x?X-Amz-Signature=5678abcd {'x' * 10_000}"
        body = f"<Error><Code>Strange</Code><Message>{text.replace(chr(27), '')}</Message></Error>"
        return Answer(400, body.encode(), {"Content-Type": "application/xml"})

    proxy.rule = rule
    told = fails(engines, folder, store.name)
    assert "Strange" in told
    assert told.isprintable()
    assert len(told) < 500
    for secret in (s3.access_key, "pw@", "5678abcd"):
        assert secret not in told


def _self_signed() -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


# ---- the local disk


@pytest.mark.skipif(
    not shutil.which("unshare")
    or subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False).returncode != 0,
    reason="needs a mount namespace of its own",
)
def test_a_full_disk_and_a_read_only_folder_fail_the_download_and_leave_nothing(
    store: Bucket, folder: Path
) -> None:
    store.put("data/a", b"small")
    store.put("data/big", FILES["big"])
    store.put("packed/a.gz", gzip.compress(b"small"))
    store.put("packed/big.gz", gzip.compress(b"".join(b"%d\n" % number for number in range(400_000))))
    folder.mkdir(parents=True)
    told = _on_a_small_disk(store.name, folder)
    assert told["too large"] == [
        f"the job brings 10.0 MiB to the disk of {folder}, which has 1.0 MiB left",
        [],
    ]
    assert told["full"] == ["the object 'packed/big.gz' cannot be decompressed: the disk is full", ["a"]]
    assert told["after cleaning"] == []
    assert "Read-only file system" in told["read-only"][0]
    assert str(folder) in told["read-only"][0]
    assert told["read-only"][1] == []


def _on_a_small_disk(bucket: str, folder: Path) -> dict[str, Any]:
    """What downloads to a disk of 1 MiB say, and leave there: first full, then read-only."""
    script = f"mount -t tmpfs -o size=1m none {folder} && exec {sys.executable} -m tests.unit.sync.small_disk"
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", f"{script} {bucket} {folder}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_file_that_is_removed_during_its_upload_leaves_no_object(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    second = times(1, "", lambda request: "partNumber=2" in request.path)
    proxy.rule = lambda request: (folder / "big").unlink() if second(request) is not None else None
    job = engines.job(
        Sync(during=(up(store.name, "data/", folder),)), engine=engines.engine(parts_per_file=1)
    )
    job.watch()
    write(folder, FILES)
    job.drain()
    assert store.contents() == {f"data/{name}": data for name, data in FILES.items() if name != "big"}
    assert store.multipart_uploads() == []


def test_an_output_that_is_truncated_during_its_upload_fails_and_is_not_stored_torn(
    engines: Engines, store: Bucket, folder: Path, proxy: FaultProxy
) -> None:
    def rule(request: Request) -> None:
        if "partNumber=2" in request.path:
            for copy in folder.parent.rglob("big"):
                os.truncate(copy, PART + 1)

    proxy.rule = rule
    with pytest.raises(SyncError, match=r"the output .*big changed"):
        upload(engines, store, folder, FILES, parts_per_file=1)
    assert "data/big" not in store.names()
    assert store.multipart_uploads() == []
