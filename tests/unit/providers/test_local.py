"""The local provider does what every provider does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kelpie.config import Settings
from kelpie.embedded.valkey import ValkeyServer
from kelpie.errors import NotFoundError
from kelpie.providers import LocalProvider, Provider, ProviderError, make_provider
from kelpie.scaling import ContainerGroup, GroupState
from kelpie.store import Store
from kelpie.store import groups as store_groups

GROUP_ID = "0c6b4b6e-2f4a-4c57-9d0e-5b8a2b6f1d3c"


@pytest.fixture
def store(valkey: ValkeyServer) -> Iterator[Store]:
    """A store with one container group."""
    store = Store.connect(valkey.url)
    store.groups.put(GROUP_ID, "sims", "org", "project", slots=2)
    yield store
    store.close()


@pytest.fixture
def provider(store: Store) -> Provider:
    return make_provider(Settings(), store)


def found(provider: Provider) -> ContainerGroup:
    group = provider.lookup(GROUP_ID)
    assert group is not None
    return group


def test_local_is_the_default(provider: Provider) -> None:
    assert isinstance(provider, LocalProvider)
    assert provider.name == Settings().provider


@pytest.mark.parametrize(
    ("organization", "project", "is_found"),
    [
        ("org", "project", True),
        (None, None, True),
        ("org", None, True),
        ("other", "project", False),
        ("org", "other", False),
        ("", "", False),
    ],
)
def test_a_group_is_found_in_its_project_only(
    provider: Provider, organization: str | None, project: str | None, is_found: bool
) -> None:
    group = provider.lookup(GROUP_ID, organization=organization, project=project)
    assert (group is not None) is is_found
    assert provider.lookup("1" + GROUP_ID[1:], organization=organization, project=project) is None


def test_a_group_is_scaled_started_and_stopped(provider: Provider) -> None:
    group = found(provider)
    assert (group.name, group.slots, group.state, group.running_replicas) == (
        "sims",
        2,
        GroupState.STOPPED,
        0,
    )
    for _ in range(2):  # every call may be repeated
        provider.scale(group, 3)
        provider.start(group)
    assert found(provider).running_replicas == 3
    provider.scale(group, 1)
    assert found(provider).running_replicas == 1
    for _ in range(2):
        provider.stop(group)
    assert (found(provider).state, found(provider).running_replicas) == (GroupState.STOPPED, 0)


def test_a_node_is_replaced_by_the_groups_host(
    provider: Provider, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.reallocate(found(provider), "node-1")
    assert store.groups.report(GROUP_ID, ["node-1", "node-2"])[1] == ["node-1"]
    monkeypatch.setattr(store_groups, "MAX_REALLOCATIONS", 1)
    with pytest.raises(ProviderError, match=GROUP_ID):
        provider.reallocate(found(provider), "node-2")


def test_a_group_that_is_gone_is_not_found(provider: Provider, store: Store) -> None:
    group = found(provider)
    store.groups.delete(GROUP_ID)
    assert provider.lookup(GROUP_ID) is None
    for call in (
        lambda: provider.scale(group, 1),
        lambda: provider.start(group),
        lambda: provider.stop(group),
        lambda: provider.reallocate(group, "n"),
    ):
        with pytest.raises(NotFoundError):
            call()
