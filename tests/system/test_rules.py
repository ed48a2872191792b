"""The rules of the mission, each on real Valkey, real S3, real gunicorn and real worker processes."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from kelpie.embedded.s3 import S3Server
from tests.system.fleet import Fleet, down, outcomes, up
from tests.system.imds import metadata_service
from tests.system.slow_proxy import SlowProxy
from tests.waiting import wait_until

MIB = 1024 * 1024

COUNT_TO = """
mkdir -p ck; i=$(cat ck/count 2>/dev/null || echo 0)
while [ "$i" -lt {steps} ]; do
  i=$((i + 1)); echo $i > ck/.tmp && mv ck/.tmp ck/count; sleep 0.1
done
mkdir -p out; echo "counted to $i" > out/result
"""
"""Counts, and resumes from its checkpoint."""


def read(s3: S3Server, bucket: str, key: str) -> bytes | None:
    """The object's content, or None when there is none."""
    client = s3.client()
    try:
        return client.get_object(Bucket=bucket, Key=key)["Body"].read()
    except client.exceptions.NoSuchKey:
        return None


def keys(s3: S3Server, bucket: str) -> set[str]:
    """Every key of the bucket."""
    return {item["Key"] for item in s3.client().list_objects_v2(Bucket=bucket).get("Contents", [])}


@contextmanager
def unwritable(s3: S3Server, bucket: str) -> Iterator[None]:
    """Within the block, nobody may write to the bucket."""
    client = s3.client()
    deny = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": ["s3:PutObject"],
        "Resource": f"arn:aws:s3:::{bucket}/*",
    }
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [deny]}))
    yield
    client.delete_bucket_policy(Bucket=bucket)


def counting(bucket: str) -> dict[str, Any]:
    """The sync plan of COUNT_TO."""
    checkpoint = (bucket, "ck/", "ck")
    return {
        "before": [down(*checkpoint)],
        "during": [up(*checkpoint)],
        "after": [up(bucket, "out/", "out")],
    }


def test_rule_01_an_idle_worker_takes_a_new_job_at_once(fleet: Fleet) -> None:
    node = fleet.node()
    wait_until(lambda: node.log.exists() and fleet.api.ok("GET", "/readyz"), "the worker polls")
    first = fleet.submit("true")
    fleet.wait(first, "completed")
    # Now it idles in a long poll; the poll of an idle worker lasts 10 s, so less shows that it was woken.
    job = fleet.submit("true")
    wait_until(lambda: fleet.job(job)["status"] != "pending", "the job starts", timeout_s=5)
    fleet.wait(job, "completed")


def test_rule_02_completed_means_exit_0_and_the_data_is_in_the_bucket(
    any_fleet: Fleet, s3: S3Server, bucket: str
) -> None:
    any_fleet.node()
    sync = {
        "during": [up(bucket, "during/", "during")],
        "after": [up(bucket, "after/", "after")],
    }
    script = (
        "mkdir -p during after; echo last > during/ck; "
        "head -c 25000000 /dev/zero > after/big; echo r > after/r"
    )
    job = any_fleet.submit(script, sync=sync)
    done = any_fleet.wait(job, "completed")
    # Looked at in the same instant as the status: nothing arrives later.
    assert keys(s3, bucket) == {"during/ck", "after/big", "after/r"}
    assert read(s3, bucket, "after/big") == bytes(25_000_000)
    assert read(s3, bucket, "during/ck") == b"last\n"
    assert outcomes(done) == ["completed"]
    assert done["attempts"][0]["exit_code"] in (0, None)


def test_rule_03_a_failure_bans_the_node_and_the_third_ends_the_job(any_fleet: Fleet) -> None:
    any_fleet.node("a")
    job = any_fleet.submit("exit 7")
    waiting = any_fleet.wait_for(job, num_failures=1)
    assert waiting["status"] == "running"
    # The node is idle and the job is free, yet it is banned from it: another job passes.
    other = any_fleet.submit("true")
    any_fleet.wait(other, "completed")
    assert any_fleet.job(job)["num_failures"] == 1
    any_fleet.node("b")
    any_fleet.wait_for(job, num_failures=2)
    any_fleet.node("c")
    failed = any_fleet.wait(job, "failed")
    assert failed["num_failures"] == 3
    assert [attempt["machine_id"] for attempt in failed["attempts"]] == ["a", "b", "c"]
    assert [attempt["exit_code"] for attempt in failed["attempts"]] == [7, 7, 7]
    assert outcomes(failed) == ["app_failed"] * 3


def test_rule_04_a_job_goes_through_six_killed_nodes_and_completes_without_a_failure(
    any_fleet: Fleet, s3: S3Server, bucket: str
) -> None:
    any_fleet.node("node-1")
    job = any_fleet.submit(COUNT_TO.format(steps=120), sync=counting(bucket))
    for lost in range(1, 7):
        seen = int(read(s3, bucket, "ck/count") or 0)
        any_fleet.wait_for(job, attempt=lost)
        wait_until(
            lambda seen=seen: int(read(s3, bucket, "ck/count") or 0) > seen + 2,
            f"attempt {lost} stores a checkpoint\n{any_fleet.describe(job)}",
        )
        any_fleet.holder(job).kill()
        any_fleet.node(f"node-{lost + 1}")
    done = any_fleet.wait(job, "completed")
    assert done["num_failures"] == 0
    assert outcomes(done) == ["interrupted"] * 6 + ["completed"]
    assert [attempt["machine_id"] for attempt in done["attempts"]] == [f"node-{n}" for n in range(1, 8)]
    assert read(s3, bucket, "out/result") == b"counted to 120\n"


def test_rule_04_an_application_may_end_its_own_node(fleet: Fleet, s3: S3Server, bucket: str) -> None:
    # What Reallocate does to a node, seen from the job: everything on it is gone at once.
    fleet.node("first")
    script = (
        'if [ "$KELPIE_ATTEMPT" = 1 ]; then read -r _ _ _ worker _ < /proc/$PPID/stat; '
        "kill -9 $worker; sleep 60; fi; "
        "mkdir -p out; echo done > out/result"
    )
    job = fleet.submit(script, sync={"after": [up(bucket, "out/", "out")]})
    fleet.wait_for(job, attempt=1)
    fleet.node("second")
    done = fleet.wait(job, "completed")
    assert done["num_failures"] == 0
    assert outcomes(done) == ["interrupted", "completed"]


def test_rule_05_a_running_job_stays_running_until_its_end(any_fleet: Fleet) -> None:
    seen: list[str] = []
    stop = threading.Event()

    def watch(job: str) -> None:
        while not stop.wait(0.02):
            status = any_fleet.api.ok("GET", f"/jobs/{job}")["status"]
            if seen[-1:] != [status]:
                seen.append(status)

    job = any_fleet.submit("case $KELPIE_ATTEMPT in 1) sleep 60;; 2) exit 3;; esac")
    watcher = threading.Thread(target=watch, args=(job,))
    watcher.start()
    try:
        wait_until(lambda: seen == ["pending"], "the job is seen pending")
        any_fleet.node("killed")
        any_fleet.wait_for(job, attempt=1)
        any_fleet.holder(job).kill()
        any_fleet.node("fails")
        any_fleet.wait_for(job, num_failures=1)
        any_fleet.node("finishes")
        done = any_fleet.wait(job, "completed")
        wait_until(lambda: seen[-1] == "completed", "the watcher sees the end")
    finally:
        stop.set()
        watcher.join()
    assert seen == ["pending", "running", "completed"]
    assert outcomes(done) == ["interrupted", "app_failed", "completed"]


def test_rule_06_outputs_that_cannot_be_stored_are_a_failure_and_another_node_completes(
    any_fleet: Fleet, s3: S3Server, bucket: str
) -> None:
    any_fleet.node("first", MAX_RETRIES="2")
    with unwritable(s3, bucket):
        job = any_fleet.submit(
            "mkdir -p out; echo result > out/result", sync={"after": [up(bucket, "out/", "out")]}
        )
        failed_once = any_fleet.wait_for(job, num_failures=1)
        assert failed_once["status"] == "running"
        assert outcomes(failed_once) == ["sync_failed"]
        assert keys(s3, bucket) == set()
    any_fleet.node("second")
    done = any_fleet.wait(job, "completed")
    assert outcomes(done) == ["sync_failed", "completed"]
    assert done["attempts"][1]["machine_id"] == "second"
    assert read(s3, bucket, "out/result") == b"result\n"


def test_rule_07_a_node_banned_from_five_jobs_is_reallocated(fleet: Fleet) -> None:
    with metadata_service() as service:
        node = fleet.node("bad", KELPIE_IMDS_URL=service.url)
        jobs = [fleet.submit("exit 1") for _ in range(6)]
        wait_until(
            lambda: any("reallocate" in path for path in service.posts), "the node asks for its replacement"
        )
        assert [fleet.job(job)["num_failures"] for job in jobs] == [1, 1, 1, 1, 1, 0]
        node.end()
    assert sum("reallocate" in path for path in service.posts) == 1


def test_rule_07_without_a_metadata_service_the_node_exits_with_the_documented_code(fleet: Fleet) -> None:
    node = fleet.node("bad")
    for _ in range(5):
        fleet.submit("exit 1")
    assert wait_until(node.process.poll, "the worker exits", timeout_s=60) == 86


def test_rule_08_jobs_are_kept_whatever_their_status_and_can_be_deleted(fleet: Fleet) -> None:
    completed = fleet.submit("true")
    failed = fleet.submit("exit 1", max_failures=1)
    canceled = fleet.submit("sleep 60", container_group_id="nobody-polls-this")
    fleet.node()
    fleet.wait(completed, "completed")
    fleet.wait(failed, "failed")
    fleet.api.ok("DELETE", f"/jobs/{canceled}")
    kept = {job["id"]: job["status"] for job in fleet.api.ok("GET", "/jobs")["jobs"]}
    assert kept == {completed: "completed", failed: "failed", canceled: "canceled"}
    for job in kept:
        assert fleet.api.request("DELETE", f"/jobs/{job}?purge=true")[0] == 200
        assert fleet.api.request("GET", f"/jobs/{job}")[0] == 404
    assert fleet.api.ok("GET", "/jobs")["jobs"] == []


def test_rule_10_before_comes_down_during_is_watched_and_after_goes_up(
    fleet: Fleet, s3: S3Server, bucket: str
) -> None:
    s3.client().put_object(Bucket=bucket, Key="in/deep/data", Body=b"input")
    sync = {
        "before": [down(bucket, "in/", "in")],
        "during": [up(bucket, "ck/", "ck")],
        "after": [up(bucket, "out/", "out")],
    }
    script = (
        "mkdir -p ck/sub out; cat in/deep/data > out/copy; echo 1 > ck/sub/one; "
        "while [ ! -e go ]; do sleep 0.05; done; echo 2 > ck/sub/one"
    )
    node = fleet.node()
    job = fleet.submit(script, sync=sync)
    wait_until(lambda: read(s3, bucket, "ck/sub/one") == b"1\n", f"the change arrives\n{fleet.describe(job)}")
    assert read(s3, bucket, "out/copy") is None  # `after` waits for the end
    (node.folder / "go").touch()
    fleet.wait(job, "completed")
    assert read(s3, bucket, "ck/sub/one") == b"2\n"
    assert read(s3, bucket, "out/copy") == b"input"
    # Only the job's own folders were emptied; they stay, and so does what is not theirs.
    for name in ("in", "ck", "out"):
        wait_until(lambda name=name: not list((node.folder / name).iterdir()), f"{name} is empty")
    assert (node.folder / "go").exists()


def test_rule_10_the_legacy_form_brings_input_and_checkpoint_and_keeps_checkpoint_and_output(
    fleet: Fleet, s3: S3Server, bucket: str
) -> None:
    for key in ("in/x", "ck/state"):
        s3.client().put_object(Bucket=bucket, Key=key, Body=key.encode())
    node = fleet.node(INPUT_DIR="input", CHECKPOINT_DIR="checkpoint", OUTPUT_DIR="output")
    script = (
        'cat "$INPUT_DIR/x" "$CHECKPOINT_DIR/state" > "$OUTPUT_DIR/early"; '
        'echo new > "$CHECKPOINT_DIR/state"; '
        'while [ ! -e go ]; do sleep 0.02; done; echo late > "$OUTPUT_DIR/late"'
    )
    job = fleet.submit(
        script,
        sync=None,
        **{f"{folder}_bucket": bucket for folder in ("input", "checkpoint", "output")},
        **{"input_prefix": "in", "checkpoint_prefix": "ck/", "output_prefix": "out"},
    )
    wait_until(lambda: read(s3, bucket, "out/early") == b"in/xck/state", "output is stored while it runs")
    wait_until(lambda: read(s3, bucket, "ck/state") == b"new\n", "and so is the checkpoint")
    (node.folder / "go").touch()
    fleet.wait(job, "completed")
    assert read(s3, bucket, "out/late") == b"late\n"
    assert keys(s3, bucket) == {"in/x", "ck/state", "out/early", "out/late"}


def test_rule_10_an_empty_sync_is_a_pure_queue(any_fleet: Fleet) -> None:
    any_fleet.node()
    job = any_fleet.submit("mkdir -p out; echo mine > out/kept", sync={})
    done = any_fleet.wait(job, "completed")
    assert done["sync"] == {}
    assert (any_fleet.nodes[0].folder / "out/kept").read_text() == "mine\n"


def test_rule_11_the_next_job_starts_while_the_last_one_uploads_in_parts(
    fleet: Fleet, s3: S3Server, bucket: str
) -> None:
    with SlowProxy(s3.endpoint) as store:
        store.bytes_per_s = 6 * MIB
        fleet.node(AWS_ENDPOINT_URL_S3=store.url)
        first = fleet.submit(
            f"mkdir -p out; head -c {25 * MIB} /dev/urandom > out/big; cp out/big kept; echo a > out/a",
            sync={"after": [up(bucket, "first/", "out")]},
        )
        second = fleet.submit(
            "found=$(ls out | wc -l); mkdir -p out; echo $found > out/found",
            sync={"after": [up(bucket, "second/", "out")]},
        )
        fleet.wait_for(second, attempt=1)
        assert fleet.job(first)["status"] == "running"  # still uploading
        store.bytes_per_s = None
        fleet.wait(first, "completed")
        fleet.wait(second, "completed")
    assert read(s3, bucket, "first/big") == (fleet.nodes[0].folder / "kept").read_bytes()
    # Parts of 10 MiB: a multipart ETag ends in their number.
    assert s3.client().head_object(Bucket=bucket, Key="first/big")["ETag"].endswith('-3"')
    assert read(s3, bucket, "second/found") == b"0\n"


def test_rule_12_the_command_knows_its_job(any_fleet: Fleet) -> None:
    node = any_fleet.node()
    job = any_fleet.submit('echo "$KELPIE_JOB_ID $KELPIE_ATTEMPT $EXTRA" > id', environment={"EXTRA": "mine"})
    any_fleet.wait(job, "completed")
    assert (node.folder / "id").read_text() == f"{job} 1 mine\n"


def test_rule_13_the_state_file_tells_the_backlog_and_is_never_half_written(
    fleet: Fleet, s3: S3Server, bucket: str
) -> None:
    with SlowProxy(s3.endpoint) as store:
        store.bytes_per_s = 4 * MIB
        node = fleet.node(AWS_ENDPOINT_URL_S3=store.url)
        job = fleet.submit(
            'mkdir -p ck; for i in 1 2 3 4 5 6; do head -c 2000000 /dev/urandom > "ck/$i"; sleep 0.2; done; '
            'cp "$KELPIE_STATE_FILE" seen',
            sync={"during": [up(bucket, "ck/", "ck")]},
        )
        wait_until(node.state_file.exists, "the state file is there")
        states: list[dict[str, Any]] = []

        def ended() -> bool:
            states.append(json.loads(node.state_file.read_text()))  # never half-written
            return any(entry["status"] == "completed" for entry in states[-1]["jobs"])

        wait_until(ended, "the state file says completed", poll_s=0.0005)
    fleet.wait(job, "completed")
    for state in states:
        assert state.keys() == {"start", "jobs"}
    entries = [entry for state in states for entry in state["jobs"]]
    assert {entry["id"] for entry in entries} == {job}
    assert {entry["status"] for entry in entries} <= {"running", "completed"}
    assert any(entry["activeUploads"] for entry in entries)
    last = entries[-1]
    assert last["activeUploads"] == last["activeDownloads"] == []
    assert last["exitCode"] == 0
    for name in ("start", "exitTime", "end"):
        assert last[name].endswith("Z"), name
    assert json.loads((node.folder / "seen").read_text())["jobs"][0]["id"] == job


@pytest.mark.parametrize("workers", [4])
def test_forty_short_jobs_on_four_workers_each_run_exactly_once(fleet: Fleet, workers: int) -> None:
    runs = fleet.root / "runs"
    runs.mkdir()
    jobs = [fleet.submit(f'echo run >> "{runs}/$KELPIE_JOB_ID"', heartbeat_interval=10) for _ in range(40)]
    for _ in range(workers):
        fleet.node()
    for job in jobs:
        assert outcomes(fleet.wait(job, "completed")) == ["completed"]
    assert {path.name: path.read_text() for path in runs.iterdir()} == dict.fromkeys(jobs, "run\n")


def test_an_unknown_key_is_told_in_the_log_and_the_worker_keeps_asking(fleet: Fleet) -> None:
    node = fleet.node(KELPIE_API_KEY=uuid.uuid4().hex)
    wait_until(lambda: node.log.exists() and "403" in node.log.read_text(), "the log names the refusal")
    assert node.process.poll() is None
