"""What every process writes while a job lives: JSON lines that name what they are about, and no secret."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from kelpie.embedded.processes import Server
from kelpie.embedded.s3 import S3Server
from kelpie.embedded.valkey import ValkeyServer
from tests.api import ApiServer, ApiUser
from tests.factories import shell
from tests.system.conftest import make_fleet
from tests.unit.platform.receiver import receiver
from tests.waiting import wait_until

ADMIN_TOKEN = "metrics-token-swordfish"


class Platform(Server):
    """`kelpie platform` at its most talkative."""

    name = "platform"

    def __init__(self, redis_url: str, directory: Path) -> None:
        super().__init__(directory)
        self.redis_url = redis_url

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        environment = {
            "KELPIE_REDIS_URL": self.redis_url,
            "KELPIE_WEBHOOK_ALLOW_PRIVATE": "true",
            "KELPIE_LOG_LEVEL": "debug",
        }
        return [sys.executable, "-m", "kelpie.cli", "platform"], environment

    def is_ready(self) -> bool:
        return self.log.exists() and "platform is running" in self.log.read_text()


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[tuple[ValkeyServer, ApiServer, Platform]]:
    settings = {"KELPIE_LOG_LEVEL": "debug", "KELPIE_METRICS_TOKEN": ADMIN_TOKEN}
    with (
        ValkeyServer(tmp_path / "valkey") as broker,
        ApiServer(broker.url, tmp_path / "api", **settings) as api,
        Platform(broker.url, tmp_path / "platform") as platform,
    ):
        yield broker, api, platform


def read(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_logs_name_what_they_are_about_and_hold_no_secret(
    parts: tuple[ValkeyServer, ApiServer, Platform], s3: S3Server, node_dir: Path
) -> None:
    broker, api, platform = parts
    user: ApiUser = api.new_user()
    me = user.ok("GET", "/users/me")
    with receiver() as hook:
        fleet = make_fleet(user, node_dir, s3)
        try:
            job = user.submit(
                shell(
                    "exit 0",
                    container_group_id=fleet.group,
                    environment={"API_TOKEN": "swordfish-environment"},
                    webhook=f"{hook.url}/hook?token=swordfish-query",
                )
            )
            node = fleet.node()
            wait_until(lambda: user.job(job["id"])["status"] == "completed", "the job is done", timeout_s=60)
            wait_until(lambda: len(hook.deliveries) >= 2, "the webhooks came", timeout_s=60)
        finally:
            fleet.close()
    user.request("GET", "/jobs", key="klp_swordfish-unknown-key")
    user.request("GET", "/metrics", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
    with redis.Redis.from_url(broker.url) as client:  # a broken record makes tracebacks
        job_key = next(client.scan_iter(match=f"*:job:{job['id']}"))
        client.hset(job_key, "created", "no number")
    assert user.request("GET", f"/jobs/{job['id']}")[0] == 500
    broker.stop()
    assert user.request("GET", "/jobs")[0] == 503
    wait_until(lambda: "waiting for redis" in platform.log.read_text(), "the platform misses Redis")

    written = {"api": read(api.log), "platform": read(platform.log), "worker": read(node.log)}
    for process, lines in written.items():
        assert lines, process
        assert all({"event", "level", "timestamp"} <= line.keys() for line in lines), process
    requests = [line for line in written["api"] if line["event"] == "request"]
    assert all(len(line["request_id"]) == 32 for line in requests)
    reports = [line for line in requests if line["path"] == f"/jobs/{job['id']}/completed"]
    assert [(line["job_id"], line["node"]) for line in reports] == [(job["id"], node.name)]
    leased = next(line for line in written["api"] if line["event"] == "job leased")
    assert (leased["job_id"], leased["attempt"], leased["node"]) == (job["id"], 1, node.name)
    assert "request_id" in leased
    lists = [line for line in requests if line["path"] == "/jobs" and line["method"] == "GET"]
    assert all("job_id" not in line and "node" not in line for line in lists), "of another request"
    assert {line.get("node") for line in written["worker"] if line.get("job_id")} == {node.name}
    delivered = [line for line in written["platform"] if line["event"] == "webhook delivered"]
    assert {line["job_id"] for line in delivered} == {job["id"]}

    secrets = {
        "the user's key": user.key,
        "the admin's key": api.admin_key,
        "the webhook secret": me["webhook_secret"],
        "the password of Redis": broker.password,
        "the key of the bucket": s3.environment["AWS_SECRET_ACCESS_KEY"],
        "whatever else": "swordfish",
    }
    for process, lines in written.items():
        for name, secret in secrets.items():
            assert secret not in json.dumps(lines), f"{process} shows {name}"
