"""Three places name the schemes of Redis URLs, because they may not import one another."""

from __future__ import annotations

from kelpie import config
from kelpie.store import urls
from kelpie_worker import settings


def test_server_store_and_worker_take_the_same_urls() -> None:
    assert set(config.REDIS_SCHEMES) == set(urls.SCHEMES) == set(settings._REDIS_SCHEMES)
    assert set(config.RQ_SCHEMES) == {scheme for scheme in urls.SCHEMES if "cluster" not in scheme}
