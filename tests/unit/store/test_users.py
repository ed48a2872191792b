"""Users and their API keys."""

from __future__ import annotations

import base64

import pytest

from kelpie.errors import ConflictError, InvalidInputError, NotFoundError, StartupError
from kelpie.store import ADMIN_ID, Principal, Scope, keys
from tests.unit.store.conftest import StoreUnderTest

ADMIN_KEY = "the-admin-key-of-32-characters-or-more"


def test_a_key_speaks_for_its_user(sut: StoreUnderTest) -> None:
    user = sut.store.users.create("alice")
    assert sut.store.users.get(user.id) == user
    key = sut.store.users.create_key(user.id, "org", "project")
    assert key.startswith("klp_")
    principal = sut.store.users.authenticate(key)
    assert principal == Principal(user.id, "alice", "org", "project")
    assert not principal.is_admin


def test_every_user_has_a_webhook_secret_of_his_own(sut: StoreUnderTest) -> None:
    secrets = {sut.store.users.create(name).webhook_secret for name in ("a", "b", "c")}
    assert len(secrets) == 3
    for secret in secrets:
        assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32


@pytest.mark.parametrize("key", ["", "klp_", "klp_" + "x" * 43, "x" * 100_000, "ü"])
def test_an_unknown_key_speaks_for_nobody(sut: StoreUnderTest, key: str) -> None:
    sut.store.users.create_key(sut.store.users.create("alice").id, "org", "project")
    assert sut.store.users.authenticate(key) is None


def test_a_taken_name_is_refused(sut: StoreUnderTest) -> None:
    first = sut.store.users.create("alice")
    with pytest.raises(ConflictError, match="alice"):
        sut.store.users.create("alice")
    assert sut.store.users.get(first.id) == first


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 257])
def test_an_unfit_name_is_refused(sut: StoreUnderTest, name: str) -> None:
    with pytest.raises(InvalidInputError):
        sut.store.users.create(name)


def test_an_unknown_user_has_no_keys_and_gets_none(sut: StoreUnderTest) -> None:
    with pytest.raises(NotFoundError):
        sut.store.users.get("nobody")
    with pytest.raises(NotFoundError):
        sut.store.users.create_key("nobody", "org", "project")
    assert sut.store.users.keys("nobody") == []


def test_keys_are_kept_as_digests_only(sut: StoreUnderTest) -> None:
    user = sut.store.users.create("alice")
    keys = [sut.store.users.create_key(user.id, f"org-{i}", "project") for i in range(3)]
    kept = repr(sut.state())
    assert not any(key in kept or key.removeprefix("klp_") in kept for key in keys)
    assert {key.org_name for key in sut.store.users.keys(user.id)} == {"org-0", "org-1", "org-2"}


def test_a_revoked_key_speaks_for_nobody(sut: StoreUnderTest) -> None:
    user, other = sut.store.users.create("alice"), sut.store.users.create("bob")
    first = sut.store.users.create_key(user.id, "org", "project")
    second = sut.store.users.create_key(user.id, "org-2", "project")
    digest = next(key.digest for key in sut.store.users.keys(user.id) if key.org_name == "org")
    with pytest.raises(NotFoundError):
        sut.store.users.revoke(other.id, digest)
    sut.store.users.revoke(user.id, digest)
    assert sut.store.users.authenticate(first) is None
    assert sut.store.users.authenticate(second) is not None
    with pytest.raises(NotFoundError):
        sut.store.users.revoke(user.id, digest)


def test_the_admins_key_comes_from_the_environment_and_a_new_one_replaces_it(sut: StoreUnderTest) -> None:
    users = sut.store.users
    users.ensure_admin(ADMIN_KEY)
    users.ensure_admin(ADMIN_KEY)
    principal = users.authenticate(ADMIN_KEY)
    assert principal is not None
    assert principal.is_admin
    requested = users.create_key(ADMIN_ID, "org", "project")
    secret = users.get(ADMIN_ID).webhook_secret
    users.ensure_admin(ADMIN_KEY + "-2")
    assert users.authenticate(ADMIN_KEY) is None
    assert users.authenticate(ADMIN_KEY + "-2") == principal
    assert users.authenticate(requested) is not None
    assert users.get(ADMIN_ID).webhook_secret == secret
    users.ensure_admin(None)
    assert users.authenticate(ADMIN_KEY + "-2") == principal


def test_a_short_admin_key_is_refused_without_being_shown(sut: StoreUnderTest) -> None:
    with pytest.raises(StartupError) as refused:
        sut.store.users.ensure_admin("secret-but-short")
    assert "secret-but-short" not in str(refused.value)


def test_deleting_all_users_leaves_the_admin_alone(sut: StoreUnderTest) -> None:
    users = sut.store.users
    users.ensure_admin(ADMIN_KEY)
    before = sut.state()
    made = [users.create(name) for name in ("alice", "bob")]
    keys = [users.create_key(user.id, "org", "project") for user in made]
    users.delete_all()
    assert sut.state() == before
    assert [users.authenticate(key) for key in keys] == [None, None]
    assert users.authenticate(ADMIN_KEY) is not None
    assert users.create("alice").id != made[0].id


def test_one_user_is_deleted_with_his_keys_and_the_admin_is_not(sut: StoreUnderTest) -> None:
    users = sut.store.users
    users.ensure_admin(ADMIN_KEY)
    before = sut.state()
    alice = users.create("alice")
    key = users.create_key(alice.id, "org", "project")
    users.delete(alice.id)
    assert sut.state() == before
    assert users.authenticate(key) is None
    with pytest.raises(NotFoundError):
        users.delete(alice.id)
    with pytest.raises(ConflictError, match="admin"):
        users.delete(ADMIN_ID)
    assert users.authenticate(ADMIN_KEY) is not None


def test_users_are_listed_by_name_a_page_at_a_time(sut: StoreUnderTest) -> None:
    users = sut.store.users
    made = {name: users.create(name) for name in ("carol", "alice", "bob")}
    assert users.page() == [made["alice"], made["bob"], made["carol"]]
    assert users.page(2, 2) == [made["carol"]]
    assert users.page(3, 2) == []


@pytest.mark.parametrize(
    "name", ["organization:acme", "Organization:acme", " ORGANIZATION:", "organization:"]
)
def test_nobody_else_can_have_the_name_of_an_organizations_user(sut: StoreUnderTest, name: str) -> None:
    with pytest.raises(InvalidInputError, match="organization"):
        sut.store.users.create(name)
    assert sut.store.users.page() == []


def test_every_field_of_a_key_is_described(sut: StoreUnderTest) -> None:
    users = sut.store.users
    user = users.create("alice")
    key, kept = users.make_key(user.id, "org", "project", scopes=[Scope.WORK], name="n", expires_in_s=60)
    users.authenticate(key)
    written = {name.decode() for name in sut.redis.hgetall(keys.api_key(kept.digest))}
    assert written == set(keys.KEY_FIELDS)
