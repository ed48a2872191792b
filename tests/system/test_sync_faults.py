"""Real nodes whose storage is in trouble: every object as it was written, or a failure with its reason."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator

import pytest

from kelpie.embedded.s3 import S3Server
from tests.fault_proxy import RESET, RESET_MID, FaultProxy, Request, error, is_part, is_put, times
from tests.system.fleet import Fleet, Node, down, outcomes, up
from tests.system.test_rules import keys, read
from tests.waiting import wait_until

MiB = 1 << 20


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3.endpoint) as proxy:
        yield proxy


@pytest.fixture
def node(fleet: Fleet, proxy: FaultProxy) -> Node:
    """A node that reaches the storage through the proxy."""
    return fleet.node("behind-proxy", AWS_ENDPOINT_URL_S3=proxy.endpoint)


def tells_no_secret(s3: S3Server, text: str) -> bool:
    signed = re.search("Signature=[0-9a-f]", text)
    return not (signed or s3.secret_key in text or s3.access_key in text)


def test_a_job_whose_storage_stumbles_completes_with_every_object_as_it_was_written(
    fleet: Fleet, s3: S3Server, bucket: str, proxy: FaultProxy, node: Node
) -> None:
    client = s3.client()
    client.put_object(Bucket=bucket, Key="in/x", Body=b"x" * (2 * MiB))
    lock, count = threading.Lock(), [0]

    def rule(request: Request) -> object:
        with lock:
            count[0] += 1
            return {0: error(503, "SlowDown"), 3: RESET, 5: error(400, "RequestTimeout")}.get(count[0] % 7)

    proxy.rule = rule  # type: ignore[assignment]
    proxy.early = times(2, RESET_MID, is_part)
    script = """
        cat in/x in/x > out/two; head -c 25000000 /dev/urandom > out/big
        cd out; sha256sum big two > ../ck/sums
    """
    sync = {
        "before": [down(bucket, "in/", "in")],
        "during": [up(bucket, "ck/", "ck")],
        "after": [up(bucket, "out/", "out")],
    }
    job = fleet.submit(script, sync=sync, heartbeat_interval=30)
    fleet.wait(job, "completed", timeout_s=90)
    assert keys(s3, bucket) == {"in/x", "ck/sums", "out/big", "out/two"}
    sums = dict(reversed(line.split()) for line in (read(s3, bucket, "ck/sums") or b"").decode().splitlines())
    for name in ("big", "two"):
        assert hashlib.sha256(read(s3, bucket, f"out/{name}") or b"").hexdigest() == sums[name]
    assert count[0] > 14
    assert "storage request failed" in node.log.read_text()
    assert tells_no_secret(s3, node.log.read_text())


def test_a_job_whose_storage_refuses_fails_with_the_reason_and_no_secret(
    fleet: Fleet, s3: S3Server, bucket: str, proxy: FaultProxy, node: Node
) -> None:
    def rule(request: Request) -> object:
        # a storage that repeats, in its answer, what it was sent
        return error(403, f"AccessDenied {request.headers['authorization']}") if is_put(request) else None

    proxy.rule = rule  # type: ignore[assignment]
    script = "mkdir -p out; echo result > out/x"
    job = fleet.submit(script, sync={"after": [up(bucket, "out/", "out")]})
    failed = fleet.wait_for(job, num_failures=1)
    assert outcomes(failed) == ["sync_failed"]
    assert f"upload s3://{bucket}/out/x: " in failed["attempts"][0]["reason"]
    assert "AccessDenied" in failed["attempts"][0]["reason"]
    assert tells_no_secret(s3, json.dumps(failed))
    assert tells_no_secret(s3, node.log.read_text())
    assert keys(s3, bucket) == set()


def test_a_request_that_was_under_way_when_its_node_froze_changes_no_object_of_the_next_attempt(
    fleet: Fleet, s3: S3Server, bucket: str, proxy: FaultProxy, node: Node
) -> None:
    arrived, go_on, passed = threading.Event(), threading.Event(), threading.Event()
    first = times(1, "", is_put)

    def rule(request: Request) -> None:
        if first(request) is not None:
            arrived.set()
            go_on.wait(60)
            passed.set()

    proxy.rule = rule
    script = 'mkdir -p ck; echo "attempt $KELPIE_ATTEMPT" > ck/who; [ "$KELPIE_ATTEMPT" != 1 ] || sleep 600'
    job = fleet.submit(script, sync={"during": [up(bucket, "ck/", "ck")]})
    assert arrived.wait(60), fleet.describe(job)
    node.pause()
    fleet.node("healthy")
    assert outcomes(fleet.wait(job, "completed")) == ["interrupted", "completed"]
    go_on.set()  # the network delivers what it has held back; its sender sleeps
    assert passed.wait(60)
    node.resume()
    fleet.nodes[1].stop()
    following = fleet.submit("true")
    assert (
        fleet.wait(following, "completed")["machine_id"] == "behind-proxy"
    )  # it has let go of the first job
    assert keys(s3, bucket) == {"ck/who"}
    assert read(s3, bucket, "ck/who") == b"attempt 2\n"


def test_a_node_that_was_killed_over_a_multipart_upload_aborts_it_when_it_is_back(
    fleet: Fleet, s3: S3Server, bucket: str, proxy: FaultProxy
) -> None:
    client = s3.client()

    def uploads() -> list[str]:
        found = client.list_multipart_uploads(Bucket=bucket).get("Uploads", ())
        return [each["UploadId"] for each in found]

    foreign = client.create_multipart_upload(Bucket=bucket, Key="out/big")["UploadId"]
    go_on, sent = threading.Event(), threading.Event()

    def rule(request: Request) -> None:
        if is_part(request):
            sent.set()
            go_on.wait(60)

    proxy.rule = rule
    node = fleet.node("node", AWS_ENDPOINT_URL_S3=proxy.endpoint)
    script = "mkdir -p out; head -c 25000000 /dev/zero > out/big"
    job = fleet.submit(script, sync={"after": [up(bucket, "out/", "out")]})
    assert sent.wait(60), fleet.describe(job)
    wait_until(lambda: len(uploads()) == 2, "the upload has begun")
    node.kill()
    go_on.set()
    fleet.node("node", AWS_ENDPOINT_URL_S3=proxy.endpoint)
    assert outcomes(fleet.wait(job, "completed")) == ["interrupted", "completed"]
    wait_until(lambda: uploads() == [foreign], "what was begun is aborted, and nothing of anybody else's")
    assert read(s3, bucket, "out/big") == bytes(25_000_000)
