"""What holds on a real server only: atomicity, memory limits, safety checks, outages."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from kelpie.embedded.valkey import ValkeyServer
from kelpie.errors import StartupError, UnavailableError
from kelpie.job import JobStatus, Lease, Outcome, UploadBacklog
from kelpie.progress import ProgressReport
from kelpie.store import Filter, Poller, Store
from kelpie.transfers import EntryTransfers, TransferReport
from tests.factories import GROUP, spec
from tests.unit.store.conftest import USER, holder_of
from tests.waiting import wait_until


def test_50_concurrent_polls_on_20_jobs_hand_out_20_distinct_jobs(real_store: Store) -> None:
    with ThreadPoolExecutor(50) as threads:
        for number in range(20):
            jobs = real_store.submit(USER, [spec() for _ in range(20)])

            def poll(node: int, number: int = number) -> Lease | None:
                return real_store.lease(USER, GROUP, f"node-{node}", f"round-{number:04}-{node:04}")

            leases = [lease for lease in threads.map(poll, range(50)) if lease is not None]
            assert sorted(lease.job.id for lease in leases) == sorted(job.id for job in jobs)
            assert len({lease.job.machine_id for lease in leases}) == 20
            assert len({lease.fence for lease in leases}) == 20
            for lease in leases:
                real_store.finish(lease.job.id, holder_of(lease), Outcome.COMPLETED)


def test_ten_reports_at_once_count_one_failure(real_store: Store) -> None:
    real_store.submit(USER, [spec()])
    lease = real_store.lease(USER, GROUP, "node-1", "r" * 16)
    assert lease is not None
    with ThreadPoolExecutor(10) as threads:
        replies = list(
            threads.map(
                lambda _: real_store.finish(lease.job.id, holder_of(lease), Outcome.APP_FAILED), range(10)
            )
        )
    assert {reply.num_failures for reply in replies} == {1}
    assert real_store.get(lease.job.id).num_failures == 1


def test_a_new_script_cache_is_filled_by_itself(real_store: Store) -> None:
    real_store.submit(USER, [spec()])
    real_store.redis.script_flush()
    real_store.submit(USER, [spec(container_group_id=group) for group in ("a", "b")])
    real_store.redis.script_flush()
    assert real_store.lease(USER, GROUP, "node-1", "r" * 16) is not None


def test_short_memory_refuses_new_jobs_and_lets_running_ones_end(real_store: Store) -> None:
    real_store.submit(USER, [spec(), spec(container_group_id="other")])
    lease = real_store.lease(USER, GROUP, "node-1", "r" * 16)
    assert lease is not None
    real_store.redis.config_set("maxmemory", 1)
    for specs in ([spec()], [spec(), spec(container_group_id="other")]):
        with pytest.raises(UnavailableError, match="maxmemory"):
            real_store.submit(USER, specs)
    moved = TransferReport((EntryTransfers(),))
    reply = real_store.heartbeat(
        lease.job.id,
        holder_of(lease),
        backlog=UploadBacklog(1, 1),
        progress=ProgressReport(0.5),
        transfers=moved,
    )
    assert reply.status is JobStatus.RUNNING
    assert real_store.transfers(lease.job.id) is None
    other = real_store.lease(USER, "other", "node-1", "s" * 16)
    assert other is not None
    assert real_store.finish(lease.job.id, holder_of(lease), Outcome.COMPLETED).status is JobStatus.COMPLETED
    assert real_store.finish(other.job.id, holder_of(other), Outcome.APP_FAILED).num_failures == 1
    real_store.cancel(other.job.id)
    real_store.purge(lease.job.id)
    real_store.redis.config_set("maxmemory", 0)
    assert [job.id for job in real_store.page(USER, Filter()).jobs] == [other.job.id]


def test_a_safe_server_passes_the_check(real_store: Store) -> None:
    real_store.check()


@pytest.mark.parametrize(("fsync", "lost"), [("everysec", "two seconds"), ("no", "30 seconds")])
def test_weak_persistence_is_warned_of(real_store: Store, fsync: str, lost: str) -> None:
    assert real_store.check() == ()
    real_store.redis.config_set("appendfsync", fsync)
    try:
        (warning,) = real_store.check()
    finally:
        real_store.redis.config_set("appendfsync", "always")
    assert lost in warning
    assert f"appendfsync {fsync}" in warning


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_evicts_is_refused(valkey: Any, real_store: Store, policy: str) -> None:
    real_store.redis.config_set("maxmemory-policy", policy)
    with pytest.raises(StartupError, match=policy):
        real_store.check()
    with pytest.raises(StartupError, match="noeviction"):
        Store.connect(valkey.url, allow_volatile=True).check()


def test_a_server_that_keeps_nothing_is_refused_unless_allowed_by_name(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path) as server:
        store = Store.connect(server.url)
        store.redis.config_set("appendonly", "no")
        with pytest.raises(StartupError, match="appendonly"):
            store.check()
        (warning,) = Store.connect(server.url, allow_volatile=True).check()
        assert "every job is lost" in warning
        store.close()


def test_a_malformed_url_is_refused() -> None:
    with pytest.raises(StartupError):
        Store.connect("http://localhost")


def test_a_server_on_a_unix_socket_serves_scripts_and_wakes_polls(tmp_path: Path) -> None:
    class OnSocket(ValkeyServer):
        def prepare(self) -> tuple[list[str], dict[str, str]]:
            argv, environment = super().prepare()
            return [*argv, "--unixsocket", str(tmp_path / "socket")], environment

    with OnSocket(tmp_path / "valkey") as server:
        store = Store.connect(f"unix://:{server.password}@{tmp_path}/socket")
        assert store.check() == ()
        poller = Poller(store)
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(poller.poll, USER, GROUP, "node-1", "r" * 16, 60)
            wait_until(lambda: poller.open_polls == 1, "the poll waits")
            (job,) = store.submit(USER, [spec()])
            lease = waiting.result(20)
        assert lease is not None
        assert lease.job.id == job.id
        poller.close()
        store.close()


def test_a_server_that_is_away_is_unavailable_and_back_when_it_is_back(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path) as server:
        store = Store.connect(server.url)
        (job,) = store.submit(USER, [spec()])
        lease = store.lease(USER, GROUP, "node-1", "r" * 16)
        assert lease is not None
        server.stop()
        for call in (
            store.check,
            lambda: store.get(job.id),
            lambda: store.page(USER, Filter()),
            lambda: store.lease(USER, GROUP, "node-1", "s" * 16),
            lambda: store.heartbeat(job.id, holder_of(lease)),
            lambda: store.users.authenticate("klp_x"),
            lambda: store.submit(USER, [spec()]),
        ):
            with pytest.raises(UnavailableError):
                call()
        server.start()

        def back() -> bool:
            try:
                return store.heartbeat(job.id, holder_of(lease)).status is JobStatus.RUNNING
            except UnavailableError:
                return False

        wait_until(back, "the holder is known again")
        store.close()


def test_wrong_credentials_are_unavailable_and_not_shown(valkey: Any) -> None:
    with pytest.raises(UnavailableError) as refused:
        Store.connect(valkey.url.replace("redis://:", "redis://:wrong-password-")).check()
    assert "wrong-password" not in str(refused.value)


def test_a_loading_server_is_unavailable(real_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (
        redis.exceptions.BusyLoadingError("LOADING"),
        redis.exceptions.ReadOnlyError("READONLY"),
        redis.exceptions.ResponseError("BUSY Redis is busy running a script"),
        redis.exceptions.ResponseError("MISCONF Errors writing to the AOF file"),
        redis.exceptions.TimeoutError("Timeout reading from socket"),
        redis.exceptions.ResponseError("Command # 1 (GET x) of pipeline caused error: BUSY running a script"),
        redis.exceptions.ClusterDownError(
            "Command # 1 (GET x) of pipeline caused error: The cluster is down"
        ),
        redis.exceptions.RedisClusterException("Redis Cluster cannot be connected"),
    ):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(real_store.redis, "hgetall", fail)
        with pytest.raises(UnavailableError):
            real_store.users.authenticate("klp_x")
