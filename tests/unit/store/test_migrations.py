"""An older layout is upgraded, a newer one refused, and processes of one version run side by side."""

from __future__ import annotations

import json
import re
import zlib
from typing import Any

import pytest
import redis

from kelpie.errors import StartupError, UnavailableError
from kelpie.job import Holder, JobStatus, Outcome
from kelpie.store import Filter, Store, keys
from kelpie.store.connection import make_client
from kelpie.store.migrations import SCHEMA
from kelpie.store.scripts import PRELUDE, Scripts, load, read_lua
from tests.factories import GROUP, spec
from tests.unit.store.conftest import USER

NOW_MS = 1_790_000_000_000


def version_1(client: redis.Redis) -> dict[str, str]:
    """A queue as the first version kept it: a pending job, a leased one, and one that failed once."""
    ids = {name: f"{name * 8}-1111-4111-8111-11119e3779b1" for name in "abc"}
    tag = f"kelpie:{{{keys.queue_name(USER, GROUP)}}}:"
    client.hset(keys.QUEUE_NUMBERS, keys.queue_name(USER, GROUP), 1)
    client.hset(keys.QUEUE_NAMES, "1", json.dumps([USER, GROUP]))
    client.sadd(keys.user_queues(USER), 1)
    client.hset(
        f"{tag}meta",
        mapping={
            "schema": 1,
            "wall": NOW_MS,
            "clock": NOW_MS,
            "sequence": 3,
            "order": NOW_MS * 1000 + 3,
            "fence": 9,
        },
    )
    definition = {"command": "c", "container_group_id": GROUP, "sync": {}, "labels": {"l": "1"}}
    plain = json.dumps(definition).encode()
    for number, (name, job_id) in enumerate(ids.items(), start=1):
        place = 255 * 2**44 + number
        order = NOW_MS * 1000 + number
        client.hset(f"{tag}job:{job_id}", mapping={"created": NOW_MS, "place": place})
        client.set(f"{tag}spec:{job_id}", zlib.compress(plain) if name == "b" else plain)
        client.zadd(f"{tag}jobs:{'pending' if name == 'a' else 'running'}", {job_id: order})
        if name == "a":
            client.zadd(f"{tag}waiting", {job_id: place + 2**52})
    held = {
        "attempt": 1,
        "attempt_state": "held",
        "attempt_started": NOW_MS,
        "node": "n1",
        "secret": "s" * 64,
    }
    client.hset(
        f"{tag}job:{ids['b']}", mapping={"status": "running", "started": NOW_MS, "heartbeat": NOW_MS, **held}
    )
    client.zadd(f"{tag}leased", {ids["b"]: NOW_MS + 60_000})
    client.hset(f"{tag}grants", "s" * 64, ids["b"])
    failed = {
        "attempt": 1,
        "outcome": "app_failed",
        "node": "n2",
        "failures": 1,
        "bans": "n2",
        "secret": "t" * 64,
    }
    client.hset(f"{tag}job:{ids['c']}", mapping={"status": "running", "started": NOW_MS, **failed})
    place = 255 * 2**44 + 3
    client.zadd(f"{tag}waiting", {ids["c"]: place})
    client.zadd(f"{tag}bans:n2", {ids["c"]: place})
    record = {
        "attempt": 1,
        "node": "n2",
        "start": NOW_MS,
        "end": NOW_MS,
        "outcome": "app_failed",
        "exit_code": 7,
    }
    client.rpush(f"{tag}attempts:{ids['c']}", json.dumps(record))
    return ids


@pytest.fixture
def client(valkey: Any) -> redis.Redis:
    return make_client(valkey.url)


def test_the_first_layout_is_upgraded_with_all_that_it_holds(client: redis.Redis) -> None:
    ids = version_1(client)
    store = Store(client)
    store.check()
    assert client.get(keys.SCHEMA) == str(SCHEMA).encode()
    jobs = {job.id: job for job in store.page(USER, Filter(), ascending=True).jobs}
    assert list(jobs) == [ids["a"], ids["b"], ids["c"]]
    assert [job.spec for job in jobs.values()] == [spec(command="c", labels={"l": "1"})] * 3
    assert [job.status for job in jobs.values()] == [JobStatus.PENDING, JobStatus.RUNNING, JobStatus.RUNNING]
    assert jobs[ids["b"]].held
    assert {job.created for job in jobs.values()} == {NOW_MS}
    assert [attempt.exit_code for attempt in store.attempts(ids["c"])] == [7]
    assert len(store.search(USER, Filter(labels={"l": "1"})).jobs) == 3
    # Work goes on: the ban holds, places are kept, the holder speaks for its attempt.
    leases = [store.lease(USER, GROUP, node, f"request-{node}") for node in ("n2", "n3")]
    assert [(lease.job.id, lease.job.attempt) for lease in leases if lease] == [(ids["a"], 1), (ids["c"], 2)]
    store.finish(ids["b"], Holder("n1"), Outcome.COMPLETED)
    assert not [key for key in client.scan_iter() if keys.queue_name(USER, GROUP).encode() in key]


def test_an_upgrade_that_was_cut_short_is_finished_by_the_next(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = version_1(client)

    class CutShort(Exception):
        pass

    def cut_short(*_: object) -> None:
        raise CutShort

    with monkeypatch.context() as patch:
        patch.setattr("kelpie.store.migrations._rewrite_job", cut_short)
        with pytest.raises(CutShort):
            Store(client).check()
    assert not client.exists(keys.MIGRATION_LOCK)  # the next need not wait
    store = Store(client)
    store.check()
    assert {job.id for job in store.page(USER, Filter()).jobs} == set(ids.values())
    before = {key: client.dump(key) for key in client.scan_iter()}
    store.check()
    assert {key: client.dump(key) for key in client.scan_iter()} == before


def test_a_newer_layout_is_refused_at_start(client: redis.Redis) -> None:
    client.set(keys.SCHEMA, SCHEMA + 1)
    with pytest.raises(StartupError, match=f"version {SCHEMA + 1} of the layout"):
        Store(client).check()


def test_a_process_that_runs_while_a_newer_one_upgrades_is_refused(
    client: redis.Redis,
) -> None:
    store = Store(client)
    store.check()
    (job,) = store.submit(USER, [spec()])
    client.hset(keys.QueueKeys(1).meta, "schema", SCHEMA + 1)
    for call in (
        lambda: store.submit(USER, [spec()]),
        lambda: store.lease(USER, GROUP, "n1", "request-1"),
        lambda: store.heartbeat(job.id, Holder("n1")),
        lambda: store.finish(job.id, Holder("n1", may_report_unheld=True), Outcome.COMPLETED),
        lambda: store.cancel(job.id),
        lambda: store.purge(job.id),
    ):
        with pytest.raises(UnavailableError, match="newer"):
            call()
    assert store.get(job.id).status is JobStatus.PENDING


def test_a_fresh_server_gets_the_version_of_its_first_process(client: redis.Redis) -> None:
    Store(client).check()
    assert client.get(keys.SCHEMA) == str(SCHEMA).encode()


def test_lua_and_python_know_the_same_version() -> None:
    assert re.search(rf"^local SCHEMA = {SCHEMA}\b", read_lua(PRELUDE), re.MULTILINE)


def test_processes_with_other_scripts_of_the_same_version_run_side_by_side(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scripts are addressed by their content: a rolling restart mixes old and new ones on one server."""

    class OtherScripts(Scripts):
        def _load(self, name: str) -> Any:
            script = load(name)
            source = script.source + "\n-- of another release"
            return type(script)(name, source, "0" * 40, script.keys, script.arguments)

    old, new = Store(client), Store(client, scripts=OtherScripts(client))
    old.check()
    new.check()
    jobs = [*old.submit(USER, [spec()]), *new.submit(USER, [spec()])]
    leases = [new.lease(USER, GROUP, "n1", "request-1"), old.lease(USER, GROUP, "n2", "request-2")]
    assert [lease.job.id for lease in leases if lease] == [job.id for job in jobs]
    for store, lease in zip((old, new), leases, strict=True):
        assert lease is not None
        store.finish(lease.job.id, Holder("any", lease.secret), Outcome.COMPLETED)
    assert {job.status for job in old.page(USER, Filter()).jobs} == {JobStatus.COMPLETED}
