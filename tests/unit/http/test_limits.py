"""Rate limits: who is limited, what he is told, and that processes share them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from flask import Flask

from kelpie.config import Settings
from kelpie.embedded.valkey import ValkeyServer
from kelpie.errors import UnavailableError
from kelpie.http.app import create_app
from kelpie.http.context import services
from kelpie.http.limits import BURST_S, Bucket, Buckets, Limit
from kelpie.http.replies import ErrorReply
from kelpie.store import Scope, Store
from tests.factories import job_body

MakeApp = Callable[..., Flask]
JOBS = "/jobs?page_size=1"
POLL = "/work?machine_id=n&container_group_id=g"


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def make_app(valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeApp]:
    made: list[Flask] = []

    def make(**settings: object) -> Flask:
        app = create_app(Settings.model_validate(settings), Store.connect(valkey.url))
        # Buckets that no time fills and no background thread touches.
        buckets = services(app).limits._buckets
        buckets._clock = Clock()
        services(app).pulse._beats = ()
        made.append(app)
        return app

    yield make
    for app in made:
        services(app).close()


@pytest.fixture
def key(store: Store) -> str:
    user = store.users.create("somebody")
    return store.users.create_key(user.id, "o", "p")


def statuses(app: Flask, path: str, key: str, count: int, **more: object) -> list[int]:
    client = app.test_client()
    return [client.get(path, headers={"X-Kelpie-Key": key}, **more).status_code for _ in range(count)]


def test_who_asks_too_often_is_told_when_to_try_again(make_app: MakeApp, key: str) -> None:
    app = make_app(rate_read_per_s=0.25)
    assert statuses(app, JOBS, key, 1) == [200]
    refused = app.test_client().get(JOBS, headers={"X-Kelpie-Key": key})
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "4"
    assert ErrorReply.model_validate(refused.get_json()).error == "Too Many Requests"
    services(app).limits._buckets._clock.now_s += 4  # type: ignore[attr-defined]
    assert statuses(app, JOBS, key, 2) == [200, 429]


def test_each_kind_of_request_has_a_limit_of_its_own(make_app: MakeApp, key: str) -> None:
    app = make_app(rate_read_per_s=2, rate_work_per_s=4, rate_submit_per_s=1)
    headers = {"X-Kelpie-Key": key}
    allowed = int(2 * BURST_S)
    assert statuses(app, JOBS, key, allowed + 2) == [200] * allowed + [429] * 2
    assert statuses(app, POLL, key, 2 * allowed + 1) == [200] * 2 * allowed + [429]
    client = app.test_client()
    submits = [client.post("/jobs", json=job_body(), headers=headers).status_code for _ in range(2)]
    batch = client.post("/jobs/batch", json=[job_body()], headers=headers).status_code
    assert [*submits, batch] == [202, 202, 429]


def test_a_limit_is_of_a_user_whatever_his_key_and_touches_no_other(
    make_app: MakeApp, store: Store, key: str
) -> None:
    app = make_app(rate_read_per_s=1)
    caller = store.users.authenticate(key)
    assert caller is not None
    second_key = store.users.create_key(caller.user_id, "o", "p")
    other = store.users.create_key(store.users.create("other").id, "o", "p")
    assert statuses(app, JOBS, key, 2) == [200, 200]
    assert statuses(app, JOBS, second_key, 1) == [429]
    assert statuses(app, JOBS, other, 2) == [200, 200]


def test_0_is_no_limit_and_pages_for_everybody_have_none(make_app: MakeApp, key: str) -> None:
    app = make_app(rate_read_per_s=0, rate_work_per_s=0)
    assert set(statuses(app, JOBS, key, 50)) == {200}
    app = make_app(rate_read_per_s=0.001)
    assert set(statuses(app, "/healthz", key, 20)) == {200}


def test_guesses_of_keys_are_slowed_and_a_fleet_behind_the_same_address_goes_on(
    make_app: MakeApp, key: str
) -> None:
    app = make_app(failed_logins_per_minute=6)
    assert statuses(app, JOBS, key, 1) == [200]
    assert statuses(app, JOBS, "guess", 8) == [403] * 6 + [429] * 2
    assert statuses(app, JOBS, key, 5) == [200] * 5
    elsewhere = {"environ_base": {"REMOTE_ADDR": "192.0.2.9"}}
    assert statuses(app, JOBS, "guess", 1, **elsewhere) == [403]
    assert app.test_client().get(JOBS).status_code == 401, "no credentials are no guess"
    services(app).limits._buckets._clock.now_s += 10  # type: ignore[attr-defined]
    assert statuses(app, JOBS, "guess", 2) == [403, 429]


def test_requests_without_credentials_use_nothing_up(make_app: MakeApp) -> None:
    app = make_app(failed_logins_per_minute=2)
    client = app.test_client()
    assert {client.get(JOBS).status_code for _ in range(9)} == {401}
    assert statuses(app, JOBS, "guess", 1) == [403]


def test_a_key_that_may_not_do_this_is_no_guess_and_not_free(make_app: MakeApp, store: Store) -> None:
    user = store.users.create("a fleet")
    narrow, new = (store.users.make_key(user.id, "o", "p", scopes=[Scope.WORK])[0] for _ in range(2))
    app = make_app(failed_logins_per_minute=2, rate_read_per_s=2)
    allowed = int(2 * BURST_S)
    assert statuses(app, JOBS, narrow, allowed + 2) == [403] * allowed + [429] * 2
    assert statuses(app, POLL, new, 1) == [200], "the address was not slowed"


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("198.51.100.1", "198.51.100.2", False),
        ("2001:db8::1", "2001:db8::2:3", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:198.51.100.1", "198.51.100.1", True),
        ("", "", False),  # a unix socket names nobody
    ],
)
def test_one_customers_addresses_are_one(make_app: MakeApp, first: str, second: str, same: bool) -> None:
    app = make_app(failed_logins_per_minute=1)
    assert statuses(app, JOBS, "guess", 1, environ_base={"REMOTE_ADDR": first}) == [403]
    again = statuses(app, JOBS, "guess", 1, environ_base={"REMOTE_ADDR": second})
    assert again == ([429] if same else [403])


def test_x_forwarded_for_is_believed_as_far_as_told(make_app: MakeApp) -> None:
    for proxies, statuses_seen in ((0, [403, 429, 429]), (1, [403, 403, 429])):
        app = make_app(failed_logins_per_minute=1, trusted_proxies=proxies)
        client = app.test_client()
        seen = []
        # The client writes what it likes; the proxy adds what it saw.
        for forwarded in ("198.51.100.1", "evil, 198.51.100.2", "203.0.113.7, 198.51.100.2"):
            headers = {"X-Kelpie-Key": "guess", "X-Forwarded-For": forwarded}
            seen.append(client.get(JOBS, headers=headers).status_code)
        assert seen == statuses_seen


def test_processes_together_grant_what_the_limit_says(store: Store) -> None:
    clock = Clock()
    processes = [Buckets(store.metrics, clock) for _ in range(4)]
    limit = Limit(per_s=100, burst=100)
    granted = 0
    for _ in range(30):  # seconds
        for process in processes:
            granted += sum(process.take("name", limit) == 0.0 for _ in range(200))
        for process in processes:
            process.share()
        clock.now_s += 1
    # The rate, and a burst for each process.
    assert 30 * 100 * 0.5 <= granted <= 30 * 100 + 4 * 100


def test_a_limiter_without_redis_holds_the_limit_by_itself(valkey: ValkeyServer) -> None:
    away = Store.connect("redis://127.0.0.1:1/0")
    clock = Clock()
    buckets = Buckets(away.metrics, clock)
    limit = Limit(per_s=1, burst=5)
    assert [buckets.take("name", limit) == 0.0 for _ in range(6)] == [True] * 5 + [False]
    with pytest.raises(UnavailableError):
        buckets.share()
    clock.now_s += 2
    assert [buckets.take("name", limit) == 0.0 for _ in range(3)] == [True, True, False]


def test_a_lost_answer_is_asked_for_again_without_counting_twice(store: Store) -> None:
    spending = [("name", 5)]
    minute, first = store.metrics.share_spending("process", 1, spending)
    again = store.metrics.share_spending("process", 1, spending)
    assert (minute, first) == again
    assert first == [5]
    assert store.metrics.share_spending("process", 2, spending)[1] == [10]
    assert store.redis.ttl(next(store.redis.scan_iter(match="kelpie:{limits}:*"))) > 0


def test_a_bucket_goes_into_debt_for_ten_seconds_at_most() -> None:
    bucket = Bucket(Limit(per_s=10, burst=20), 0.0)
    bucket.learn(minute=1, total=10_000, own=0)
    assert bucket.tokens == -100
    bucket.learn(minute=2, total=5, own=5)  # a new minute begins at 0
    assert bucket.tokens == -100
    assert bucket.take(10.0) > 0
    bucket.fill(12.1)
    assert bucket.tokens == 20


def test_buckets_that_nobody_uses_are_forgotten(store: Store) -> None:
    clock = Clock()
    buckets = Buckets(store.metrics, clock)
    for number in range(100):
        buckets.take(f"name-{number}", Limit(per_s=1, burst=1))
    buckets.share()
    assert len(buckets._buckets) == 100
    clock.now_s += 60
    buckets.share()
    assert len(buckets._buckets) == 0
