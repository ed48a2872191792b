"""What vanishes comes back, and nothing acknowledged is lost: the API, Valkey and frozen nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kelpie.embedded.s3 import S3Server
from kelpie.embedded.valkey import ValkeyServer
from tests.api import ApiServer, ApiUser
from tests.factories import job_body
from tests.system.conftest import make_fleet
from tests.system.fleet import Fleet, is_gone, outcomes, up
from tests.system.test_rules import COUNT_TO, counting, keys, read
from tests.waiting import wait_until


@pytest.fixture
def own_api(broker: ValkeyServer, tmp_path: Path) -> Iterator[ApiServer]:
    """An API that the test may kill."""
    with ApiServer(broker.url, tmp_path / "api") as server:
        yield server


@pytest.fixture
def own_fleet(own_api: ApiServer, node_dir: Path, s3: S3Server) -> Iterator[Fleet]:
    """Nodes of that API."""
    fleet = make_fleet(own_api.new_user(), node_dir, s3)
    yield fleet
    fleet.close()


def test_a_job_survives_the_restart_of_the_api(
    own_api: ApiServer, own_fleet: Fleet, s3: S3Server, bucket: str
) -> None:
    node = own_fleet.node()
    job = own_fleet.submit(COUNT_TO.format(steps=60), sync=counting(bucket), heartbeat_interval=5)
    wait_until(lambda: read(s3, bucket, "ck/count"), "a checkpoint is stored")
    own_api.kill()
    own_api.start()
    done = own_fleet.wait(job, "completed")
    assert outcomes(done) == ["completed"]
    assert node.process.poll() is None


def test_a_job_survives_the_death_of_valkey_and_nothing_acknowledged_is_lost(
    broker: ValkeyServer, own_fleet: Fleet, s3: S3Server, bucket: str
) -> None:
    node = own_fleet.node()
    job = own_fleet.submit(COUNT_TO.format(steps=60), sync=counting(bucket), heartbeat_interval=5)
    acknowledged = {own_fleet.submit("true", container_group_id="later") for _ in range(20)}
    wait_until(lambda: read(s3, bucket, "ck/count"), "a checkpoint is stored")
    broker.kill()
    status, headers, answer = own_fleet.api.request("GET", "/jobs")
    assert status == 503
    assert int(headers["Retry-After"]) >= 1
    assert answer.keys() >= {"error", "message"}
    broker.start()
    done = own_fleet.wait(job, "completed")
    assert outcomes(done) == ["completed"]
    assert node.process.poll() is None
    kept = own_fleet.api.ok("GET", "/jobs?container_group_id=later")["jobs"]
    assert {one["id"] for one in kept} == acknowledged
    assert {one["status"] for one in kept} == {"pending"}


def test_a_node_frozen_past_its_lease_is_refused_stops_its_command_and_writes_nothing_more(
    fleet: Fleet, s3: S3Server, bucket: str
) -> None:
    sync = {"during": [up(bucket, "ck/", "ck")], "after": [up(bucket, "out/", "out")]}
    script = (
        'echo $$ > "pid-$KELPIE_ATTEMPT"; mkdir -p ck out; '
        '[ "$KELPIE_ATTEMPT" = 1 ] || { echo second > ck/who; echo second > out/who; exit 0; }; '
        "echo first > ck/who; i=0; while [ $i -lt 600 ]; do i=$((i+1)); echo $i > ck/zombie; sleep 0.05; done"
    )
    frozen = fleet.node("frozen")
    job = fleet.submit(script, sync=sync)
    wait_until(lambda: read(s3, bucket, "ck/zombie"), f"the first attempt uploads\n{fleet.describe(job)}")
    frozen.pause()  # its command goes on writing to the folder
    fleet.node("healthy")
    done = fleet.wait(job, "completed")
    assert outcomes(done) == ["interrupted", "completed"]
    before = {key: read(s3, bucket, key) for key in keys(s3, bucket)}
    command = int((frozen.folder / "pid-1").read_text())
    assert not is_gone(command)
    frozen.resume()
    wait_until(lambda: is_gone(command), f"the zombie's command is stopped\n{fleet.describe(job)}")
    # The node is of use again: that it takes the next job shows that it has let go of this one.
    fleet.nodes[1].stop()
    following = fleet.submit("true")
    assert fleet.wait(following, "completed")["machine_id"] == "frozen"
    assert {key: read(s3, bucket, key) for key in keys(s3, bucket)} == before
    assert read(s3, bucket, "ck/who") == b"second\n"
    assert outcomes(fleet.job(job)) == ["interrupted", "completed"]


def test_sigterm_hands_the_job_back_uncounted_and_the_last_checkpoint_arrives(
    any_fleet: Fleet, s3: S3Server, bucket: str
) -> None:
    first = any_fleet.node("first")
    script = (
        "mkdir -p ck; trap 'echo saved > ck/last; exit 0' TERM; touch ck/started; "
        '[ "$KELPIE_ATTEMPT" = 2 ] && exit 0; while :; do sleep 0.05; done'
    )
    job = any_fleet.submit(script, sync={"during": [up(bucket, "ck/", "ck")]}, heartbeat_interval=30)
    wait_until(lambda: "ck/started" in keys(s3, bucket), f"the command runs\n{any_fleet.describe(job)}")
    assert first.stop() == 0
    released = any_fleet.job(job)
    assert outcomes(released) == ["released"]
    assert (released["status"], released["num_failures"]) == ("running", 0)
    assert read(s3, bucket, "ck/last") == b"saved\n"
    any_fleet.node("second")
    assert outcomes(any_fleet.wait(job, "completed")) == ["released", "completed"]


def test_a_canceled_job_is_stopped_and_neither_reported_nor_uploaded(
    any_fleet: Fleet, s3: S3Server, bucket: str
) -> None:
    node = any_fleet.node()
    script = "echo $$ > pid; trap 'mkdir -p out; echo x > out/x; exit 0' TERM; while :; do sleep 0.05; done"
    job = any_fleet.submit(script, sync={"after": [up(bucket, "out/", "out")]})
    pid = int(
        wait_until(lambda: (node.folder / "pid").exists() and (node.folder / "pid").read_text(), "it runs")
    )
    any_fleet.api.ok("DELETE", f"/jobs/{job}")
    wait_until(lambda: is_gone(pid), "the command is stopped")
    any_fleet.wait(any_fleet.submit("true"), "completed")
    assert outcomes(any_fleet.job(job)) == ["canceled"]
    assert any_fleet.job(job)["status"] == "canceled"
    assert keys(s3, bucket) == set()


def test_fifty_concurrent_polls_on_twenty_jobs_hand_out_twenty_distinct_jobs(api: ApiUser) -> None:
    rounds = 100
    with ThreadPoolExecutor(50) as pool:
        for number in range(rounds):
            group = f"group-{number}"
            submitted = api.ok(
                "POST", "/jobs/batch", json=[job_body(container_group_id=group) for _ in range(20)]
            )

            def poll(node: int, group: str = group) -> list[dict[str, str]]:
                return api.ok("GET", f"/work?machine_id=node-{node}&container_group_id={group}")

            leased = [job["id"] for jobs in pool.map(poll, range(50)) for job in jobs]
            assert Counter(leased) == Counter(job["id"] for job in submitted)


def test_a_store_that_is_down_fails_the_attempt_before_the_command_starts(fleet: Fleet) -> None:
    node = fleet.node(AWS_ENDPOINT_URL_S3="http://127.0.0.1:9", MAX_RETRIES="1")
    sync = {"before": [{"bucket": "gone", "prefix": "in/", "local_path": "in", "direction": "download"}]}
    job = fleet.submit("touch ran", sync=sync, max_failures=1)
    failed = fleet.wait(job, "failed")
    assert outcomes(failed) == ["sync_failed"]
    assert failed["attempts"][0]["reason"]
    assert not (node.folder / "ran").exists()


def test_a_node_that_comes_back_on_its_old_disk_uploads_nothing_of_its_dead_attempt(
    fleet: Fleet, s3: S3Server, bucket: str
) -> None:
    first = fleet.node("phoenix")
    job = fleet.submit(
        "mkdir -p ck; echo stale > ck/stale; sleep 60", sync={"during": [up(bucket, "one/", "ck")]}
    )
    wait_until(lambda: "one/stale" in keys(s3, bucket), f"the command runs\n{fleet.describe(job)}")
    first.kill()
    fleet.api.ok("DELETE", f"/jobs/{job}")
    fleet.node("phoenix")
    following = fleet.submit("echo new > ck/new", sync={"during": [up(bucket, "two/", "ck")]})
    fleet.wait(following, "completed")
    assert keys(s3, bucket) == {"one/stale", "two/new"}


def test_a_command_that_runs_for_too_long_is_killed_and_its_failure_counted(fleet: Fleet) -> None:
    node = fleet.node()
    job = fleet.submit("echo $$ > pid; sleep 600", max_runtime_s=2, max_failures=1)
    failed = fleet.wait(job, "failed")
    assert outcomes(failed) == ["app_failed"]
    assert failed["attempts"][0]["reason"] == "it ran for longer than max_runtime_s"
    pid = int((node.folder / "pid").read_text())
    wait_until(lambda: is_gone(pid), "its command is gone")
    assert node.process.poll() is None
