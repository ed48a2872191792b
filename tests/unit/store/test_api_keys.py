"""API keys: how far they reach, how they end, and that Redis never learns one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from kelpie.errors import ConflictError, InvalidInputError, NotFoundError
from kelpie.store import ADMIN_ID, Principal, Scope, Store, api_keys, keys
from kelpie.store.api_keys import NOTE_USE_EVERY_MS
from kelpie.store.users import Users
from tests.unit.store.conftest import StoreUnderTest
from tests.waiting import wait_until

ADMIN_KEY = "the-admin-key-of-32-characters-or-more"


class Clock:
    """Time that a test moves, in ms."""

    def __init__(self) -> None:
        self.now = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def users(sut: StoreUnderTest, clock: Clock) -> Users:
    """The users of a store, by a clock that the test moves."""
    return Users(sut.redis, sut.store._scripts, clock)


@pytest.fixture
def user_id(users: Users) -> str:
    return users.create("alice").id


def principal(users: Users, key: str) -> Principal:
    found = users.authenticate(key)
    assert found is not None
    return found


def test_what_is_kept_of_a_key_tells_keys_apart(users: Users, user_id: str, clock: Clock) -> None:
    key, made = users.make_key(user_id, "org", "project", scopes=[Scope.WORK], name="nodes")
    clock.now += 1
    users.make_key(user_id, "org", "project")
    first, second = users.keys(user_id)
    assert first == made
    assert (first.name, first.scopes, first.created) == ("nodes", {Scope.WORK}, clock.now - 1)
    assert first.prefix is not None
    assert key.startswith(first.prefix)
    assert len(first.prefix) == 10
    assert (second.name, second.scopes, second.expires, second.last_used) == (None, None, None, None)
    assert first.id != second.id
    assert principal(users, key).key_id == first.id


def test_neither_a_key_nor_the_digest_of_one_follows_from_its_id(users: Users, user_id: str) -> None:
    key, made = users.make_key(user_id, "org", "project")
    shown = made.id.replace("-", "")
    assert not any(shown[at : at + 8] in made.digest for at in range(len(shown) - 7))
    assert not any(piece in key for piece in made.id.split("-"))


@pytest.mark.parametrize(
    ("scopes", "may"),
    [
        (None, {Scope.SUBMIT, Scope.READ, Scope.WORK}),
        ([Scope.SUBMIT], {Scope.SUBMIT, Scope.READ}),
        ([Scope.READ], {Scope.READ}),
        ([Scope.WORK], {Scope.WORK}),
        ([Scope.WORK, Scope.SUBMIT, Scope.WORK], {Scope.SUBMIT, Scope.READ, Scope.WORK}),
    ],
)
def test_a_key_may_do_what_its_scopes_say(users: Users, user_id: str, scopes: Any, may: set[Scope]) -> None:
    found = principal(users, users.make_key(user_id, "org", "project", scopes=scopes)[0])
    assert {scope for scope in Scope if found.may(scope)} == may
    assert found.may_manage_keys is (scopes is None)
    assert not found.is_admin


@pytest.mark.parametrize(
    ("scopes", "is_admin"),
    [(None, True), ([Scope.ADMIN], True), ([Scope.SUBMIT], False), ([Scope.SUBMIT, Scope.WORK], False)],
)
def test_a_key_of_the_admin_is_the_admins_with_that_scope_only(
    users: Users, scopes: Any, is_admin: bool
) -> None:
    users.ensure_admin(ADMIN_KEY)
    found = principal(users, users.make_key(ADMIN_ID, "org", "project", scopes=scopes)[0])
    assert found.is_admin is is_admin
    assert found.user_id == ADMIN_ID


@pytest.mark.parametrize("scopes", [[], [Scope.ADMIN], [Scope.SUBMIT, Scope.ADMIN]])
def test_a_user_gets_no_key_of_no_scope_or_of_the_admins(users: Users, user_id: str, scopes: Any) -> None:
    with pytest.raises(InvalidInputError) as refused:
        users.make_key(user_id, "org", "project", scopes=scopes)
    assert refused.value.errors[0][0] == "scopes"
    assert users.keys(user_id) == []


def test_a_scope_that_is_not_known_here_allows_nothing(
    sut: StoreUnderTest, users: Users, user_id: str
) -> None:
    key, made = users.make_key(user_id, "org", "project", scopes=[Scope.WORK])
    sut.redis.hset(keys.api_key(made.digest), "scopes", "audit")
    found = principal(users, key)
    assert not any(found.may(scope) for scope in Scope)


@pytest.mark.parametrize("wrong", [{"expires_in_s": 0}, {"expires_in_s": -1}, {"expires_in_s": 10**12}])
def test_an_expiry_out_of_bounds_is_refused(users: Users, user_id: str, wrong: Any) -> None:
    with pytest.raises(InvalidInputError):
        users.make_key(user_id, "org", "project", **wrong)


def test_a_key_expires_by_itself(real_store: Store) -> None:
    users = real_store.users
    user_id = users.create("alice").id
    key, made = users.make_key(user_id, "org", "project", expires_in_s=1)
    assert made.expires == made.created + 1000
    assert users.keys(user_id) == [made]
    found = principal(users, key)
    assert found.key_expires == made.expires
    wait_until(lambda: users.authenticate(key) is None, "the key has expired")
    assert users.keys(user_id) == []
    with pytest.raises(NotFoundError):
        users.revoke_id(user_id, made.id)


def test_no_key_outlives_the_one_that_made_it(users: Users, user_id: str, clock: Clock) -> None:
    soon = clock.now + 5000
    for asked in (None, 3600):
        _, made = users.make_key(user_id, "org", "project", expires_in_s=asked, expires_by=soon)
        assert made.expires == soon
    _, shorter = users.make_key(user_id, "org", "project", expires_in_s=2, expires_by=soon)
    assert shorter.expires == clock.now + 2000


def test_the_last_use_is_written_once_a_minute(
    sut: StoreUnderTest, users: Users, user_id: str, clock: Clock
) -> None:
    key = users.create_key(user_id, "org", "project")

    def last_used() -> int | None:
        return users.keys(user_id)[0].last_used

    assert last_used() is None
    start = clock.now
    seen = []
    for _ in range(130):
        users.authenticate(key)
        seen.append(last_used())
        clock.now += 1000
    assert seen[0] == start
    assert sorted(set(seen)) == [start, start + NOTE_USE_EVERY_MS, start + 2 * NOTE_USE_EVERY_MS]
    assert all(b is not None and a is not None and a <= b for a, b in pairwise(seen))


def test_a_use_that_is_noted_late_does_not_bring_a_revoked_key_back(
    sut: StoreUnderTest, users: Users, user_id: str, clock: Clock
) -> None:
    key, made = users.make_key(user_id, "org", "project")
    users.revoke(user_id, made.digest)
    users._note_use(made.digest, 0)
    assert users.authenticate(key) is None
    assert not sut.redis.exists(keys.api_key(made.digest))


def test_a_key_is_revoked_by_its_id_and_only_by_its_own_user(users: Users, user_id: str) -> None:
    other = users.create("bob").id
    first, made = users.make_key(user_id, "org", "project")
    second, kept = users.make_key(user_id, "org", "project")
    for wrong in (made.digest, "", "x" * 1000, "ü", kept.id.upper()):
        with pytest.raises(NotFoundError):
            users.revoke_id(user_id, wrong)
    with pytest.raises(NotFoundError):
        users.revoke_id(other, made.id)
    users.revoke_id(user_id, made.id)
    assert users.authenticate(first) is None
    assert users.authenticate(second) is not None
    with pytest.raises(NotFoundError):
        users.revoke_id(user_id, made.id)


def test_a_revoked_key_is_refused_by_every_other_process_at_once(real_store: Store, valkey: Any) -> None:
    user_id = real_store.users.create("alice").id
    key, made = real_store.users.make_key(user_id, "org", "project")
    other = Store.connect(valkey.url)
    try:
        assert other.users.authenticate(key)
        real_store.users.revoke_id(user_id, made.id)
        assert other.users.authenticate(key) is None
    finally:
        other.close()


def test_a_user_has_a_bounded_number_of_keys_and_ended_ones_do_not_count(
    sut: StoreUnderTest, users: Users, user_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_keys, "MAX_KEYS", 3)
    made = [users.make_key(user_id, "org", "project")[1] for _ in range(3)]
    with pytest.raises(ConflictError, match="3 API keys"):
        users.make_key(user_id, "org", "project")
    assert len(users.keys(user_id)) == 3
    sut.redis.delete(keys.api_key(made[0].digest))  # as its expiry does
    users.make_key(user_id, "org", "project")
    users.revoke(user_id, made[1].digest)
    users.make_key(user_id, "org", "project")
    with pytest.raises(ConflictError):
        users.make_key(user_id, "org", "project")


def test_the_operators_key_always_fits(users: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    users.ensure_admin(None)
    monkeypatch.setattr(api_keys, "MAX_KEYS", 1)
    users.create_key(ADMIN_ID, "org", "project")
    users.ensure_admin(ADMIN_KEY)
    assert users.authenticate(ADMIN_KEY)


def test_no_key_can_be_found_in_redis(sut: StoreUnderTest, users: Users, user_id: str) -> None:
    users.ensure_admin(ADMIN_KEY)
    made = [users.make_key(user_id, "org", "project", scopes=[Scope.WORK])[0] for _ in range(3)]
    for key in (*made, ADMIN_KEY):
        assert users.authenticate(key)
    dump = "\n".join(everything(sut))
    for key in (*made, ADMIN_KEY):
        secret = key.removeprefix("klp_")
        longest = max(length for length in range(len(secret) + 1) if any_piece(secret, length, dump))
        assert longest <= 10, "more of a key than people need to tell keys apart"


def everything(sut: StoreUnderTest) -> Iterator[str]:
    """Every key and value of the server as text."""
    for key, value in sut.state().items():
        yield f"{key!r} {value!r}"


def any_piece(secret: str, length: int, dump: str) -> bool:
    return any(secret[at : at + length] in dump for at in range(len(secret) - length + 1))
