"""What Redis URLs say, and that a wrong one is refused without showing its password."""

from __future__ import annotations

import pytest

from kelpie.errors import StartupError
from kelpie.store.connection import make_client, make_plain_client
from kelpie.store.urls import Kind, read_url


def test_a_sentinel_url_names_sentinels_primary_and_database() -> None:
    told = read_url(
        "rediss+sentinel://kelpie:p%40ss%2F@one:26380,two,[::1]:5/name/3"
        "?sentinel_password=s%26x&sentinel_username=watch&ssl_ca_certs=/etc/ca.pem"
    )
    assert told.kind is Kind.SENTINEL
    assert told.hosts == (("one", 26380), ("two", 26379), ("::1", 5))
    assert told.service == "name"
    assert told.options == {
        "username": "kelpie",
        "password": "p@ss/",
        "ssl_ca_certs": "/etc/ca.pem",
        "ssl": True,
        "db": 3,
    }
    assert told.sentinel_options == {
        "password": "s&x",
        "username": "watch",
        "ssl_ca_certs": "/etc/ca.pem",
        "ssl": True,
    }


def test_a_cluster_url_names_some_of_its_nodes() -> None:
    told = read_url("redis+cluster://:secret@one:7000,two:7001,three")
    assert told.kind is Kind.CLUSTER
    assert told.hosts == (("one", 7000), ("two", 7001), ("three", 6379))
    assert told.options == {"password": "secret"}
    assert read_url("redis+cluster://one").options == {}


@pytest.mark.parametrize(
    "url",
    [
        "http://:hush-hush@host",
        "redis+other://:hush-hush@host",
        "redis+cluster://:hush-hush@",
        "redis+cluster://:hush-hush@one,,two",
        "redis+cluster://:hush-hush@one/1",
        "redis+cluster://:hush-hush@one:port",
        "redis+cluster://:hush-hush@one?timeout=1",
        "redis+sentinel://:hush-hush@one",
        "redis+sentinel://:hush-hush@one/name/x",
        "redis+sentinel://:hush-hush@one/name/0/0",
        "redis+sentinel://:hush-hush@one/name?db=3",
        "redis://:hush-hush@host:port",
        "redis+cluster://:hush-hush@" + ",".join(["one"] * 65),
    ],
)
def test_a_wrong_url_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(StartupError) as refused:
        make_client(url)
    assert "hush-hush" not in str(refused.value)
    assert "hush-hush" not in repr(refused.value.__cause__)


def test_a_url_that_was_taken_apart_does_not_print_its_password() -> None:
    assert "hush-hush" not in repr(
        read_url("redis+sentinel://:hush-hush@one/name?sentinel_password=hush-hush")
    )


def test_rq_is_given_no_cluster() -> None:
    with pytest.raises(StartupError, match="KELPIE_RQ_URL"):
        make_plain_client("redis+cluster://one")
