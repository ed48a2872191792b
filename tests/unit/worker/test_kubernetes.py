"""The deletion cost as an annotation of the pod, told to an API server by HTTPS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kelpie_worker.deletion_cost import MAX_DELETION_COST, OutOfReachError
from kelpie_worker.kubernetes import ANNOTATION, PodAnnotation
from tests.identity import Service, own_certificate, service


class Cluster:
    """An API server, and a pod's service account."""

    def __init__(self, api: Service, account: Path) -> None:
        self.api = api
        self.account = account
        (account / "token").write_text("a.b.c\n")
        (account / "namespace").write_text("sims")
        self.environment = {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(api.port),
            "HOSTNAME": "pod-7",
        }

    def pod(self, **environment: str) -> PodAnnotation:
        found = PodAnnotation.find(self.environment | environment, self.account)
        assert found is not None
        return found

    @property
    def costs(self) -> list[str]:
        return [json.loads(asked.body)["metadata"]["annotations"][ANNOTATION] for asked in self.api.asked]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with service(own_certificate(tmp_path / "ca.crt")) as api:
        yield Cluster(api, tmp_path)


def test_the_pod_is_annotated_when_it_matters(cluster: Cluster) -> None:
    pod = cluster.pod()
    costs = [1, 2, 1000, 1030, 1499, 1500, 1100, 900, MAX_DELETION_COST, MAX_DELETION_COST, 1, 0, 5]
    assert all(pod.set_deletion_cost(cost) for cost in costs)
    assert cluster.costs == ["1", "2", "1000", "1500", "900", "999999999", "1", "0", "5"]
    first = cluster.api.asked[0]
    assert (first.method, first.path) == ("PATCH", "/api/v1/namespaces/sims/pods/pod-7")
    assert first.headers["content-type"] == "application/merge-patch+json"
    assert cluster.pod(KELPIE_POD_NAME="pod/8").set_deletion_cost(1)
    assert cluster.api.asked[-1].path == "/api/v1/namespaces/sims/pods/pod%2F8"


def test_the_token_is_read_anew_and_a_refusal_is_no_more_than_that(cluster: Cluster) -> None:
    pod = cluster.pod()
    cluster.api.status = 403
    assert pod.set_deletion_cost(1) is False
    (cluster.account / "token").write_text("renewed")
    cluster.api.status = 200
    assert pod.set_deletion_cost(1)
    assert [one.headers["authorization"] for one in cluster.api.asked] == ["Bearer a.b.c", "Bearer renewed"]
    (cluster.account / "token").unlink()
    with pytest.raises(OutOfReachError):
        pod.set_deletion_cost(5)


@pytest.mark.parametrize("status", [409, 429, 500, 503])
def test_a_server_that_cannot_take_it_now_is_worth_another_try(cluster: Cluster, status: int) -> None:
    pod = cluster.pod()
    cluster.api.status = status
    with pytest.raises(OutOfReachError):
        pod.set_deletion_cost(1)
    cluster.api.status = 200
    assert pod.set_deletion_cost(1)


def test_a_server_that_the_account_does_not_vouch_for_hears_nothing(cluster: Cluster) -> None:
    own_certificate(cluster.account / "ca.crt")  # another authority of the same name
    with pytest.raises(OutOfReachError):
        cluster.pod().set_deletion_cost(1)
    assert cluster.api.asked == []


def test_elsewhere_there_is_none(cluster: Cluster) -> None:
    assert PodAnnotation.find({"HOSTNAME": "h"}, cluster.account) is None
    assert PodAnnotation.find(cluster.environment, cluster.account / "none") is None
    (cluster.account / "token").unlink()
    assert PodAnnotation.find(cluster.environment, cluster.account) is None
