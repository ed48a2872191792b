"""The API, the platform and nodes on a cluster and behind Sentinels, as operators run them."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kelpie.embedded.valkey import ValkeyServer
from kelpie.store import Store
from kelpie_worker.redis_queue import RedisQueue
from tests.api import ApiServer, ApiUser, environment_without_kelpie
from tests.clusters import Cluster, Replicated
from tests.factories import GROUP, job_body
from tests.unit.platform.receiver import receiver
from tests.unit.platform.test_process import PlatformProcess
from tests.unit.worker.doubles import settings
from tests.waiting import wait_until

GROUPS = tuple(f"group-{number}" for number in range(9))


class Platform(PlatformProcess):
    """`kelpie platform` with RQ on a server of its own."""

    def __init__(self, redis_url: str, rq_url: str, directory: Path) -> None:
        super().__init__(redis_url, directory)
        self.rq_url = rq_url

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        argv, environment = super().prepare()
        return argv, environment | {"KELPIE_RQ_URL": self.rq_url}


def run_a_job(user: ApiUser, group: str) -> None:
    """One job from its submit to its end, by a poll that waits for it."""
    with ThreadPoolExecutor(1) as thread:
        path = f"/work?machine_id=node-1&container_group_id={group}&wait=20"
        poll = thread.submit(user.ok, "GET", path)
        job = user.submit(job_body(container_group_id=group))
        [leased] = poll.result(30)
    assert leased["id"] == job["id"]
    report = {"machine_id": "node-1", "container_group_id": group, "lease": leased["lease"]}
    assert user.ok("POST", f"/jobs/{job['id']}/heartbeat", json=report)["status"] == "running"
    user.ok("POST", f"/jobs/{job['id']}/completed", json=report)
    assert user.job(job["id"])["status"] == "completed"


def test_everything_works_on_a_cluster(tmp_path: Path) -> None:
    with (
        Cluster(tmp_path / "cluster") as cluster,
        ValkeyServer(tmp_path / "rq") as rq,
        ApiServer(cluster.url, tmp_path / "api", KELPIE_RQ_URL=rq.url) as api,
        Platform(cluster.url, rq.url, tmp_path / "platform"),
        receiver() as hook,
    ):
        user = api.new_user()
        for group in GROUPS:
            run_a_job(user, group)
        batch = [job_body(container_group_id=group, webhook=hook.url) for group in GROUPS]
        jobs = user.ok("POST", "/jobs/batch", json=batch)
        listed = user.ok("GET", f"/jobs?page_size={len(GROUPS)}")["jobs"]
        assert [job["id"] for job in listed] == [job["id"] for job in reversed(jobs)]
        assert user.ok("GET", f"/work?machine_id=node-1&container_group_id={GROUPS[4]}")
        wait_until(lambda: hook.deliveries, "the webhook came")
        metrics = api.admin().ok("GET", "/metrics")
        assert f"kelpie_queues {float(len(GROUPS))}" in metrics
        assert 'kelpie_webhook_deliveries{state="failed"} 0.0' in metrics
        queue = RedisQueue(
            settings(tmp_path, api_url=cluster.url, api_key=user.key, container_group_id=GROUPS[5])
        )
        leased = queue.lease(5)
        assert leased is not None
        queue.completed(leased)
        queue.close()
        assert user.job(leased.id)["status"] == "completed"
        api.admin().ok("DELETE", "/jobs")
        assert user.ok("GET", "/jobs")["_count"] == 0


def test_the_platform_on_a_cluster_says_that_rq_needs_a_server(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        ended = subprocess.run(
            [sys.executable, "-m", "kelpie.cli", "platform"],
            env=environment_without_kelpie() | {"KELPIE_REDIS_URL": cluster.url},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 78
        assert "KELPIE_RQ_URL" in ended.stderr
        assert cluster.password not in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_failover_needs_no_restart_of_any_process(tmp_path: Path) -> None:
    with (
        Replicated(tmp_path / "servers") as servers,
        ApiServer(servers.url, tmp_path / "api") as api,
        PlatformProcess(servers.url, tmp_path / "platform") as platform,
        receiver() as hook,
    ):
        user = api.new_user()
        run_a_job(user, GROUP)
        pids = [api.pid, platform.pid]
        # The writes so far are on the replica.
        store = Store.connect(servers.primary_url, wait_replicas=1)
        store.users.create("witness")
        store.close()
        servers.primary.kill()
        wait_until(lambda: user.request("GET", "/readyz")[0] == 503, "the API misses Redis")
        wait_until(lambda: user.request("GET", "/jobs")[0] == 200, "the API has found the new primary")
        run_a_job(user, GROUP)
        job = user.submit(job_body(webhook=hook.url))
        assert user.ok("GET", f"/work?machine_id=node-1&container_group_id={GROUP}")
        wait_until(lambda: hook.deliveries, "the platform works on the new primary", timeout_s=60)
        assert job["id"] in hook.deliveries[0].body.decode()
        assert [api.pid, platform.pid] == pids
        for pid in pids:
            os.kill(pid, 0)
