"""The drill of docs/how-to/backup.md: Redis is backed up while it serves, lost, restored, and jobs go on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from kelpie.embedded.s3 import S3Server
from kelpie.embedded.valkey import ValkeyServer
from tests.api import ApiServer
from tests.system.conftest import make_fleet
from tests.system.fleet import Fleet, outcomes, up
from tests.system.test_rules import read
from tests.waiting import wait_until

UNTIL_TOLD = "mkdir -p ck; while [ ! -e ../go ]; do date > ck/now.tmp; mv ck/now.tmp ck/now; sleep 0.2; done"


@pytest.fixture
def fleet_of_one(broker: ValkeyServer, tmp_path: Path, node_dir: Path, s3: S3Server) -> Iterator[Fleet]:
    with ApiServer(broker.url, tmp_path / "api") as api:
        fleet = make_fleet(api.new_user(), node_dir, s3)
        yield fleet
        fleet.close()


def test_what_was_backed_up_goes_on_after_everything_was_lost(
    broker: ValkeyServer, fleet_of_one: Fleet, s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    fleet = fleet_of_one
    node = fleet.node()
    sync = {"during": [up(bucket, "ck/", "ck")]}
    running = fleet.submit(UNTIL_TOLD, sync=sync, heartbeat_interval=30)
    wait_until(lambda: read(s3, bucket, "ck/now"), "a checkpoint is stored")
    pending = fleet.submit("true", container_group_id=fleet.group)
    folder, kept = broker.directory / "appendonlydir", tmp_path / "backup"

    with redis.Redis.from_url(broker.url) as client:  # as the page says
        client.config_set("auto-aof-rewrite-percentage", 0)
        wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], "no rewrite runs")
        shutil.copytree(folder, kept)
        client.config_set("auto-aof-rewrite-percentage", 100)

    lost = fleet.submit("true", container_group_id="later")
    broker.kill()
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)
    broker.start()

    wait_until(lambda: fleet.api.request("GET", f"/jobs/{running}")[0] == 200, "the API answers again")
    assert fleet.api.request("GET", f"/jobs/{lost}")[0] == 404  # what came after the backup
    (node.folder.parent / "go").touch()
    done = fleet.wait(running, "completed")
    assert outcomes(done) == ["completed"]  # the attempt that ran all the time
    assert done["machine_id"] == node.name
    assert outcomes(fleet.wait(pending, "completed")) == ["completed"]
