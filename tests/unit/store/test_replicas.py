"""A primary with a replica and Sentinels: failover needs no restart, and replicas can be waited for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kelpie.errors import UnavailableError
from kelpie.job import JobStatus, Outcome
from kelpie.store import Filter, Poller, Store
from kelpie.store.connection import make_plain_client
from tests.clusters import Replicated
from tests.factories import GROUP, spec
from tests.unit.store.conftest import USER, holder_of
from tests.waiting import wait_until


def answers(store: Store, job_id: str) -> bool:
    try:
        return store.get(job_id).id == job_id
    except UnavailableError:
        return False


def test_a_failover_needs_no_restart_and_loses_nothing_that_a_replica_had(tmp_path: Path) -> None:
    with Replicated(tmp_path) as servers:
        careful = Store.connect(servers.url, wait_replicas=1)
        store = Store.connect(servers.url)
        poller = Poller(store)
        rq = make_plain_client(servers.url)
        assert rq.ping()
        (job,) = careful.submit(USER, [spec()])
        lease = careful.lease(USER, GROUP, "node-1", "request-00000001")
        assert lease is not None
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(poller.poll, USER, GROUP, "node-2", "request-00000002", 120)
            wait_until(lambda: poller.open_polls == 1, "a poll waits")
            servers.primary.kill()
            with pytest.raises(UnavailableError):
                store.get(job.id)
            wait_until(lambda: answers(store, job.id), "the replica has taken over")
            assert store.heartbeat(job.id, holder_of(lease)).status is JobStatus.RUNNING
            with pytest.raises(UnavailableError, match="0 of 1 replicas"):
                careful.finish(job.id, holder_of(lease), Outcome.COMPLETED)
            # It has happened all the same; the repeat is answered once the old primary is back as a replica.
            servers.primary.start()

            def repeated() -> bool:
                try:
                    return careful.finish(job.id, holder_of(lease), Outcome.COMPLETED).status == "completed"
                except UnavailableError:
                    return False

            wait_until(repeated, "the old primary follows the new one", timeout_s=60)
            (second,) = store.submit(USER, [spec()])
            woken = waiting.result(60)  # the subscription has moved to the new primary
            assert woken is not None
            assert woken.job.id == second.id
        assert rq.ping()
        poller.close()
        store.close()
        careful.close()
        rq.close()


def test_what_no_replica_has_is_not_acknowledged(tmp_path: Path) -> None:
    with Replicated(tmp_path, sentinels=0) as servers:
        store = Store.connect(servers.primary_url, wait_replicas=1)
        assert not any("replicas" in warning for warning in store.check())
        batch = [spec(container_group_id=group) for group in ("a", "b", "c")]
        assert len(store.submit(USER, batch)) == 3
        servers.replica.kill()
        assert store.lease(USER, "nothing-here", "node-1", "request-00000001") is None
        for refused in (batch[:1], batch):
            with pytest.raises(UnavailableError, match="0 of 1 replicas"):
                store.submit(USER, refused)
        # What was not confirmed has happened, and can be repeated.
        assert len(store.page(USER, Filter()).jobs) == 7
        with servers.primary.client() as client:
            wait_until(lambda: client.info("replication")["connected_slaves"] == 0, "the replica is missed")
        assert any("KELPIE_WAIT_REPLICAS" in warning for warning in store.check())
        servers.replica.start()

        def accepted() -> bool:
            try:
                return bool(store.submit(USER, [spec()]))
            except UnavailableError:
                return False

        wait_until(accepted, "the replica is back")
        store.close()


def test_a_primary_that_is_demoted_while_it_lives_is_left(tmp_path: Path) -> None:
    with Replicated(tmp_path) as servers:
        store = Store.connect(servers.url)
        (job,) = store.submit(USER, [spec()])
        with servers.sentinels[0].client() as sentinel:
            sentinel.sentinel_failover("kelpie-primary")

        def moved() -> bool:
            try:
                store.submit(USER, [spec()])
            except UnavailableError:
                return False
            with servers.replica.client() as new:
                return new.info("replication")["role"] == "master"

        wait_until(moved, "writes go to the new primary")
        assert answers(store, job.id)
        store.close()
