"""The users who stand for organizations."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from kelpie.errors import ConflictError, InvalidInputError
from kelpie.store import Store, keys
from kelpie.store.organizations import OrganizationUser
from tests.unit.store.conftest import StoreUnderTest


def test_an_organization_has_one_user_whose_name_says_so(sut: StoreUnderTest) -> None:
    organizations = sut.store.organizations
    assert organizations.look("acme") == OrganizationUser(0, None, None)
    user_id = organizations.ensure("acme", None)
    assert organizations.ensure("acme", None) == user_id
    assert organizations.ensure("Acme", None) != user_id
    assert sut.store.users.get(user_id).username == "organization:acme"
    assert sut.store.users.get(user_id).webhook_secret.startswith("whsec_")
    assert organizations.look("acme") == OrganizationUser(0, user_id, None)


def test_a_user_of_that_name_from_before_is_not_taken_for_it(sut: StoreUnderTest) -> None:
    squatter = sut.store.users._create("11111111-1111-4111-8111-111111111111", "organization:acme")
    with pytest.raises(ConflictError):
        sut.store.organizations.ensure("acme", "org-1")
    assert sut.store.organizations.look("acme").user_id is None
    assert sut.store.users.get(squatter.id) == squatter


def test_a_name_that_has_passed_to_another_organization_gets_nothing_of_the_old_one(
    sut: StoreUnderTest,
) -> None:
    organizations = sut.store.organizations
    user_id = organizations.ensure("acme", None)  # by a node, whose token tells no id
    assert organizations.ensure("acme", "org-1") == user_id
    assert organizations.look("acme").organization_id == "org-1"
    assert organizations.ensure("acme", None) == user_id
    with pytest.raises(ConflictError, match="another organization"):
        organizations.ensure("acme", "org-2")
    sut.store.users.delete(user_id)
    assert organizations.ensure("acme", "org-2") != user_id


def test_deleting_the_users_of_organizations_ends_what_was_remembered_of_their_keys(
    sut: StoreUnderTest,
) -> None:
    organizations, users = sut.store.organizations, sut.store.users
    first = organizations.ensure("acme", "org-1")
    users.create("alice")
    before = organizations.look("acme").epoch
    users.delete_all()
    assert organizations.look("acme") == OrganizationUser(before + 1, None, None)
    assert users.page() == []
    assert organizations.ensure("acme", "org-1") != first


def test_deleting_other_users_leaves_it(sut: StoreUnderTest) -> None:
    sut.store.users.delete(sut.store.users.create("alice").id)
    assert sut.store.organizations.look("acme").epoch == 0
    assert not sut.redis.exists(keys.USERS_EPOCH)


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 300, "a\0"])
def test_a_name_that_is_none_is_refused(sut: StoreUnderTest, name: str) -> None:
    with pytest.raises(InvalidInputError):
        sut.store.organizations.ensure(name, None)


def test_those_who_come_at_once_get_the_same_user(real_store: Store) -> None:
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: real_store.organizations.ensure("acme", "org-1"), range(64)))
    assert len(set(found)) == 1
    assert [user.username for user in real_store.users.page()] == ["organization:acme"]
