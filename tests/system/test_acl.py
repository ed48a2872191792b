"""The users of docs/how-to/redis-acl.md can do what their process does, and nothing else."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from kelpie.embedded.processes import LOOPBACK
from kelpie.embedded.valkey import ValkeyServer
from kelpie.errors import UnavailableError
from kelpie.job import JobStatus, Outcome, UploadBacklog
from kelpie.progress import ProgressReport
from kelpie.store import Store
from kelpie.transfers import EntryTransfers, TransferReport
from kelpie_worker.redis_queue import RedisQueue
from tests.api import ApiServer
from tests.factories import GROUP, job_body, spec
from tests.platform import PlatformProcess
from tests.unit.platform.receiver import receiver
from tests.unit.worker.doubles import settings
from tests.waiting import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "redis-acl.md"

NEVER = [
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("KEYS", "*"),
    ("CONFIG", "GET", "requirepass"),
    ("CONFIG", "SET", "maxmemory", "1"),
    ("SHUTDOWN", "NOSAVE"),
    ("BGREWRITEAOF",),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("ACL", "LIST"),
    ("MONITOR",),
    ("REPLICAOF", "NO", "ONE"),
    ("CLIENT", "LIST"),
    ("SCRIPT", "FLUSH"),
    ("FUNCTION", "FLUSH"),
    ("SWAPDB", "0", "1"),
    ("SCAN", "0"),
    ("GET", "another-application"),
    ("SET", "another-application", "1"),
    ("EVAL", "return redis.call('GET', 'another-application')", "0"),
    ("EVAL", "return redis.call('FLUSHALL')", "0"),
    ("PUBLISH", "another-channel", "x"),
]


def lines_of_page() -> dict[str, list[str]]:
    """The rules of every user that the page makes."""
    blocks = re.findall(r"^```\n(ACL SETUSER .*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    words = [block.split() for block in blocks]
    return {block[2]: block[3:] for block in words}


class Broker:
    """A server with the users of the page."""

    def __init__(self, server: ValkeyServer) -> None:
        self.server = server
        self.admin = redis.Redis.from_url(server.url)
        self.admin.set("another-application", "secret")

    def make(self, user: str, **replaced: str) -> str:
        """Make a user as the page says; the URL for it."""
        rules = lines_of_page()[user]
        for old, new in replaced.items():
            shown = "{7}" if old == "queue_tag" else old.replace("_", "-")
            rules = [rule.replace(shown, new) for rule in rules]
        self.admin.execute_command("ACL", "SETUSER", user, *rules)
        password = next(rule[1:] for rule in rules if rule.startswith(">"))
        return f"redis://{user}:{password}@{LOOPBACK}:{self.server.port}/0"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with ValkeyServer(tmp_path / "valkey") as server:
        broker = Broker(server)
        yield broker
        broker.admin.close()


def refused(client: redis.Redis, *command: str) -> bool:
    try:
        client.execute_command(*command)
    except redis.exceptions.NoPermissionError:
        return True
    except redis.exceptions.ResponseError as error:
        return "ACL failure in script" in str(error) or "NOPERM" in str(error)
    return False


def assert_is_held_back(broker: Broker, url: str, *more: tuple[str, ...]) -> None:
    with redis.Redis.from_url(url) as client:
        allowed = [command for command in [*NEVER, *more] if not refused(client, *command)]
    assert allowed == []
    assert broker.admin.get("another-application") == b"secret"


def denials(broker: Broker) -> list[str]:
    """What Redis has refused to whom so far."""
    entries: list[dict[str, Any]] = broker.admin.acl_log()
    return [f"{entry['username']}: {entry['reason']} {entry['object']}" for entry in entries]


def test_the_api_works_as_its_user(broker: Broker, tmp_path: Path) -> None:
    url = broker.make("kelpie-api", API_PASSWORD="pw-api")
    with ApiServer(url, tmp_path / "api") as api:
        user, admin = api.new_user(), api.admin()
        jobs = user.ok("POST", "/jobs/batch", json=[job_body(container_group_id=g) for g in "abc"])
        user.submit(job_body())
        path = f"/work?machine_id=node-1&container_group_id={GROUP}&wait=5"
        [leased] = user.ok("GET", path)
        report = {"machine_id": "node-1", "container_group_id": GROUP, "lease": leased["lease"]}
        beat = report | {"progress": {"fraction": 0.5}}
        assert user.ok("POST", f"/jobs/{leased['id']}/heartbeat", json=beat)["status"] == "running"
        user.ok("POST", f"/jobs/{leased['id']}/completed", json=report)
        assert user.job(leased["id"])["status"] == "completed"
        [failing] = user.ok("GET", "/work?machine_id=node-1&container_group_id=a")
        report = {"machine_id": "node-1", "container_group_id": "a", "lease": failing["lease"]}
        user.ok("POST", f"/jobs/{failing['id']}/failed", json=report)
        assert user.ok("GET", "/jobs")["_count"] == 4
        user.ok("DELETE", f"/jobs/{jobs[1]['id']}")
        user.ok("DELETE", f"/jobs/{jobs[1]['id']}?purge=true")
        user.ok("DELETE", "/jobs/container-groups/c")
        assert "kelpie_redis_up 1.0" in admin.ok("GET", "/metrics")
        assert "kelpie_webhook_deliveries" in admin.ok("GET", "/metrics")
        admin.ok("DELETE", "/users")
        admin.ok("DELETE", "/jobs")
        assert admin.request("GET", "/readyz")[0] == 200
    # At start it asks how Redis syncs, which no user of ours may.
    assert {line for line in denials(broker) if "config" not in line} == set()
    assert_is_held_back(broker, url)


def test_the_platform_works_as_its_user(broker: Broker, tmp_path: Path) -> None:
    url = broker.make("kelpie-platform", PLATFORM_PASSWORD="pw-platform")
    store = Store.connect(broker.server.url)
    user = store.users.create("somebody")
    with receiver() as hook, PlatformProcess(url, tmp_path / "platform") as platform:
        hook.statuses = [500, 204]  # one more try, which the promoter must bring back
        (job,) = store.submit(user.id, [spec(webhook=hook.url, heartbeat_interval=1)])
        assert store.lease(user.id, GROUP, "node-1", "request-00000001") is not None
        wait_until(lambda: len(hook.deliveries) >= 2, "the webhook came, and again", timeout_s=60)
        wait_until(lambda: not store.get(job.id).held, "the lost node's job waits")
        assert platform.running
        assert "tick failed" not in platform.log.read_text()
    assert {line for line in denials(broker) if "config" not in line} == set()
    assert_is_held_back(broker, url)
    store.close()


def test_a_node_works_as_its_user_and_sees_its_own_queue_only(broker: Broker, tmp_path: Path) -> None:
    store = Store.connect(broker.server.url)
    user, other = store.users.create("somebody"), store.users.create("somebody-else")
    key = store.users.create_key(user.id, "o", "p")
    other_key = store.users.create_key(other.id, "o", "p")
    jobs = store.submit(user.id, [spec() for _ in range(3)])
    (foreign,) = store.submit(other.id, [spec(environment={"TOKEN": "hush-hush"})])
    (sibling,) = store.submit(user.id, [spec(container_group_id="another-group")])
    place = store._registry.find(user.id, GROUP)
    assert place is not None
    url = broker.make(
        "kelpie-node-7",
        NODE_PASSWORD="pw-node",
        SHA256_OF_ITS_API_KEY=hashlib.sha256(key.encode()).hexdigest(),
        queue_tag=place.keys.prefix.removeprefix("kelpie:").removesuffix(":"),
    )
    queue = RedisQueue(
        settings(tmp_path, machine_id="node-1", api_url=url, api_key=key, container_group_id=GROUP)
    )
    first = queue.lease(5)
    assert first is not None
    moved = TransferReport(before=(EntryTransfers(files=1),))
    reply = queue.heartbeat(first, UploadBacklog(1, 10, 0.5), ProgressReport(0.5), moved)
    assert reply.status is JobStatus.RUNNING
    queue.completed(first)
    second = queue.lease(5)
    assert second is not None
    queue.failed(second, Outcome.APP_FAILED, 1, "it broke")
    third = queue.lease(5)
    assert third is not None
    queue.released(third)
    assert [store.get(job.id).status for job in jobs] == [
        JobStatus.COMPLETED,
        JobStatus.RUNNING,
        JobStatus.RUNNING,
    ]
    assert queue.lease(1) is not None
    queue.close()
    assert denials(broker) == []

    held = RedisQueue(settings(tmp_path, api_url=url, api_key=other_key, container_group_id=GROUP))
    with pytest.raises(UnavailableError, match="ACL"):
        held.lease(0)
    held.close()
    keys_of_others = [
        key.decode()
        for key in broker.admin.scan_iter(match="kelpie:*")
        if not key.decode().startswith(place.keys.prefix) and b"{registry}:queue_" not in key
    ]
    assert any(foreign.id in key for key in keys_of_others)
    assert any(sibling.id in key for key in keys_of_others)
    own_key = hashlib.sha256(key.encode()).hexdigest()
    assert_is_held_back(
        broker,
        url,
        *[("TYPE", name) for name in keys_of_others if own_key not in name],
        *[("DEL", name) for name in keys_of_others],
        ("HSET", "kelpie:{registry}:queue_names", "99", "[]"),
        ("DEL", "kelpie:{registry}:queue_numbers"),
        ("HSET", f"kelpie:{{users}}:key:{own_key}", "user_id", "00000000-0000-0000-0000-000000000000"),
        ("GET", "rq:anything"),
    )
    store.close()
