from __future__ import annotations

import pytest

from kelpie.errors import InvalidInputError
from kelpie.store import Deed
from kelpie.store import audit as module
from tests.unit.store.conftest import StoreUnderTest


def deed(user: str, target: str) -> Deed:
    return Deed(user_id=user, username=user, action="hold a job", target=target, via="api")


def test_deeds_are_paged_from_the_newest_and_each_user_has_his_own(sut: StoreUnderTest) -> None:
    audit = sut.store.audit
    for n in range(5):
        audit.note([deed("ada", str(n)), deed("ben", f"b{n}")])
    first, cursor = audit.page("ada", size=3)
    rest, end = audit.page("ada", size=3, cursor=cursor)
    assert [one.deed.target for one in (*first, *rest)] == ["4", "3", "2", "1", "0"]
    assert end is None
    assert len(audit.page(None)[0]) == 10
    assert audit.page("nobody") == ([], None)


def test_a_cursor_that_is_none_is_refused(sut: StoreUnderTest) -> None:
    for cursor in ("x", "1", "1-", "-", "+", "1-1 COUNT"):
        with pytest.raises(InvalidInputError, match="cursor"):
            sut.store.audit.page(None, cursor=cursor)


def test_the_log_is_bounded_and_so_is_each_entry(
    sut: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ENTRIES", 3)
    monkeypatch.setattr(module, "MAX_ENTRIES_OF_USER", 2)
    for n in range(5):
        sut.store.audit.note([deed("ada", str(n) + "x" * 10_000)])
    everything, own = sut.store.audit.page(None)[0], sut.store.audit.page("ada")[0]
    assert [one.deed.target[0] for one in everything] == ["4", "3", "2"]
    assert [one.deed.target[0] for one in own] == ["4", "3"]
    assert len(own[0].deed.target) == module.MAX_TEXT
