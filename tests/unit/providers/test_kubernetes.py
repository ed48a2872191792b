"""The provider of Kubernetes against a server that speaks its API over TLS."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from kelpie.config import Settings
from kelpie.embedded.valkey import ValkeyServer
from kelpie.errors import NotFoundError
from kelpie.providers import KubernetesProvider, Provider, ProviderError, make_provider
from kelpie.providers.kubernetes import COST
from kelpie.scaling import ContainerGroup, GroupState
from kelpie.store import Store
from tests.factories import spec
from tests.identity import own_certificate
from tests.unit.providers.clouds import Fault, Kubernetes, served


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Kubernetes]:
    cluster = Kubernetes()
    with served(cluster, own_certificate(tmp_path / "ca.crt")):
        (tmp_path / "token").write_text(cluster.token + "\n")
        yield cluster


@pytest.fixture
def settings(cluster: Kubernetes, tmp_path: Path) -> Settings:
    return Settings(
        provider="kubernetes",
        kubernetes_url=cluster.url,
        kubernetes_namespace=cluster.namespace,
        kubernetes_token_file=tmp_path / "token",
        kubernetes_ca_file=tmp_path / "ca.crt",
        provider_timeout_s=5,
    )


@pytest.fixture
def store(valkey: ValkeyServer) -> Iterator[Store]:
    store = Store.connect(valkey.url)
    yield store
    store.close()


@pytest.fixture
def provider(settings: Settings, store: Store) -> Provider:
    return make_provider(settings, store)


def found(provider: Provider, group_id: str) -> ContainerGroup:
    group = provider.lookup(group_id)
    assert group is not None
    return group


def test_a_deployment_is_scaled_started_and_stopped(cluster: Kubernetes, provider: Provider) -> None:
    group_id = cluster.add("sims")
    assert isinstance(provider, KubernetesProvider)
    group = found(provider, group_id)
    assert (group.name, group.state, group.running_replicas) == ("sims", GroupState.STOPPED, 0)
    for _ in range(2):
        provider.scale(group, 3)
        provider.start(group)
    group = found(provider, group_id)
    assert (group.state, group.running_replicas, group.current) == (GroupState.RUNNING, 3, 3)
    assert len(cluster.of("sims")) == 3


@pytest.mark.parametrize(
    ("labels", "is_found"),
    [
        ({"organization": "org", "project": "p"}, True),
        ({"organization": "org"}, False),
        ({"organization": "other", "project": "p"}, False),
        ({}, False),
    ],
)
def test_a_deployment_belongs_to_the_project_of_its_labels(
    cluster: Kubernetes, provider: Provider, labels: dict[str, str], is_found: bool
) -> None:
    group_id = cluster.add("sims", **labels)
    assert (provider.lookup(group_id, organization="org", project="p") is not None) is is_found
    assert provider.lookup(group_id) is not None
    assert provider.lookup(str(uuid.uuid4())) is None


def test_a_deployment_without_labels_belongs_to_the_default_project(
    cluster: Kubernetes, provider: Provider
) -> None:
    assert provider.lookup(cluster.add("sims"), organization="default", project="default") is not None


def test_two_deployments_of_one_group_are_refused(cluster: Kubernetes, provider: Provider) -> None:
    group_id = cluster.add("sims")
    cluster.deployments["copy"] = cluster.deployments["sims"]
    with pytest.raises(ProviderError, match="2 Deployments carry the label"):
        provider.lookup(group_id)


def test_pods_without_a_job_go_first(cluster: Kubernetes, provider: Provider, store: Store) -> None:
    group_id = cluster.add("sims", replicas=4)
    user = store.users.create("owner")
    group = found(provider, group_id)
    store.rules.create(user.id, group, min_replicas=0, max_replicas=9, idle_threshold_seconds=0)
    store.submit(user.id, [spec(container_group_id=group_id)] * 2)
    pods = cluster.of("sims")
    notes = {pod: cluster.pods[pod]["metadata"]["annotations"] for pod in pods}
    notes[pods[0]][COST] = "999999999"  # of the job that it had before
    notes[pods[3]][COST] = "4711"  # its worker says so itself
    # The newest two, which would go first if all cost the same.
    for pod in pods[2:]:
        assert store.lease(user.id, group_id, pod, uuid.uuid4().hex) is not None
    provider.scale(group, 2)
    assert cluster.of("sims") == pods[2:]
    assert int(notes[pods[2]][COST]) > 0
    assert notes[pods[3]][COST] == "4711"


def test_growing_tells_pods_nothing(cluster: Kubernetes, provider: Provider) -> None:
    provider.scale(found(provider, cluster.add("sims", replicas=1)), 2)
    assert [path for path in cluster.said("PATCH") if "/pods/" in path] == []


def test_a_pod_of_the_group_is_replaced_and_no_other_is(cluster: Kubernetes, provider: Provider) -> None:
    group = found(provider, cluster.add("sims", replicas=2))
    cluster.add("database", replicas=1)
    [first, second] = cluster.of("sims")
    provider.reallocate(group, first)
    provider.reallocate(group, "database-3")
    provider.reallocate(group, "../pods")
    assert first not in cluster.pods
    assert second in cluster.pods
    assert len(cluster.of("sims")) == 2
    assert len(cluster.of("database")) == 1


def test_a_deployment_that_is_gone_is_not_found(cluster: Kubernetes, provider: Provider) -> None:
    group = found(provider, cluster.add("sims"))
    cluster.deployments.clear()
    assert provider.lookup(group.id) is None
    with pytest.raises(NotFoundError):
        provider.scale(group, 1)


def test_a_token_that_is_replaced_is_read_anew(
    cluster: Kubernetes, provider: Provider, tmp_path: Path
) -> None:
    group_id = cluster.add("sims")
    found(provider, group_id)
    cluster.token = "token-2"
    with pytest.raises(ProviderError, match="answered 401") as caught:
        provider.lookup(group_id)
    assert "token-1" not in str(caught.value)
    (tmp_path / "token").write_text("token-2")
    assert found(provider, group_id)
    (tmp_path / "token").unlink()
    with pytest.raises(ProviderError, match="KELPIE_KUBERNETES_TOKEN_FILE"):
        provider.lookup(group_id)


def test_a_short_outage_is_waited_for(cluster: Kubernetes, provider: Provider) -> None:
    group_id = cluster.add("sims")
    cluster.faults = [Fault(503)]
    assert found(provider, group_id)


def test_a_silent_server_is_given_up_in_time_for_another_try(
    cluster: Kubernetes, settings: Settings, store: Store
) -> None:
    hasty = make_provider(settings.model_copy(update={"provider_timeout_s": 3.0}), store)
    group_id = cluster.add("sims")
    cluster.faults = [Fault(silent=True)]
    assert found(hasty, group_id)
    cluster.faults = [Fault(silent=True)] * 9
    hurried = make_provider(settings.model_copy(update={"provider_timeout_s": 0.3}), store)
    with pytest.raises(ProviderError, match="gave no answer"):
        hurried.lookup(group_id)


def test_a_cluster_of_an_unknown_authority_is_not_told_the_token(
    cluster: Kubernetes, settings: Settings, store: Store, tmp_path: Path
) -> None:
    own_certificate(tmp_path / "other.crt")
    other = settings.model_copy(
        update={"kubernetes_ca_file": tmp_path / "other.crt", "provider_timeout_s": 0.2}
    )
    with pytest.raises(ProviderError, match="gave no answer"):
        make_provider(other, store).lookup(str(uuid.uuid4()))
    assert cluster.asked == []


@pytest.mark.parametrize("body", [b"{}", b'{"items": [3]}', b'{"items": [{"metadata": 1}]}'])
def test_nonsense_is_no_deployment(cluster: Kubernetes, provider: Provider, body: bytes) -> None:
    cluster.faults = [Fault(200, body=body)]
    with pytest.raises(ProviderError):
        provider.lookup(str(uuid.uuid4()))
