"""Kubernetes: container groups are Deployments of one namespace that carry the group's id as a label.

Plain HTTPS with the token of the pod's service account: the four calls of a provider need no client of 20 MB.
A Deployment knows no stopped state; one without replicas is what is called stopped here.

Which pod goes when a Deployment shrinks is decided by Kubernetes, cheapest first by the annotation
``controller.kubernetes.io/pod-deletion-cost``. So before it shrinks, each pod is told whether it has a job.
What a busy pod says of itself is left: its worker knows better what its end would lose.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from kelpie.errors import NotFoundError
from kelpie.providers.base import ProviderError
from kelpie.providers.cloud import MERGE_PATCH, Cloud, segment
from kelpie.scaling import ContainerGroup, GroupState

GROUP_LABEL = "kelpie.dev/container-group"
ORGANIZATION_LABEL = "kelpie.dev/organization"
PROJECT_LABEL = "kelpie.dev/project"
DEFAULT = "default"
"""The organization and project of a Deployment without these labels, as of a key that was bound to none."""

COST = "controller.kubernetes.io/pod-deletion-cost"
BUSY_COST, IDLE_COST = 1000, 0

BusyNodes = Callable[[str], Collection[str]]
"""The names of the nodes of a container group that have a job. A node is called like its pod."""


class KubernetesProvider:
    """Scales Deployments of one namespace."""

    name = "kubernetes"

    def __init__(self, cloud: Cloud, namespace: str, busy: BusyNodes, *, slots: int) -> None:
        self._cloud = cloud
        self._namespace = namespace
        self._busy = busy
        self._slots = slots

    def lookup(
        self, group_id: str, *, organization: str | None = None, project: str | None = None
    ) -> ContainerGroup | None:
        """See Provider."""
        path = f"/apis/apps/v1/namespaces/{self._namespace}/deployments"
        found = _items(self._cloud.get(path, labelSelector=f"{GROUP_LABEL}={group_id}"))
        if len(found) > 1:
            raise ProviderError(
                f"{len(found)} Deployments carry the label {GROUP_LABEL}={group_id}; one may."
            )
        for deployment in found:
            group = self._decode(deployment, group_id)
            if organization in (None, group.organization) and project in (None, group.project):
                return group
        return None

    def scale(self, group: ContainerGroup, replicas: int) -> None:
        """See Provider. When it shrinks, pods without a job go first."""
        if replicas < group.replicas:
            self._price(group)
        path = f"/apis/apps/v1/namespaces/{self._namespace}/deployments/{segment(group.name)}/scale"
        self._cloud.call("PATCH", path, {"spec": {"replicas": replicas}}, content_type=MERGE_PATCH)

    def start(self, group: ContainerGroup) -> None:
        """See Provider. It runs from the moment that it has replicas."""

    def stop(self, group: ContainerGroup) -> None:
        """See Provider."""
        self.scale(group, 0)

    def reallocate(self, group: ContainerGroup, node: str) -> None:
        """See Provider. The Deployment puts another pod in the place of one that is deleted."""
        for name, labels, _ in self._pods(group):
            if name == node and labels.get(GROUP_LABEL) == group.id:
                self._delete_pod(name)

    def _delete_pod(self, name: str) -> None:
        try:
            self._cloud.call("DELETE", f"/api/v1/namespaces/{self._namespace}/pods/{segment(name)}")
        except NotFoundError:  # it is gone: that was wanted
            return

    def _price(self, group: ContainerGroup) -> None:
        """Tell Kubernetes which pods have a job, where it does not know."""
        busy = self._busy(group.id)
        for name, _, notes in self._pods(group):
            known = _whole(notes.get(COST))
            if (known > IDLE_COST) if name in busy else (known == IDLE_COST):
                continue
            cost = BUSY_COST if name in busy else IDLE_COST
            body = {"metadata": {"annotations": {COST: str(cost)}}}
            path = f"/api/v1/namespaces/{self._namespace}/pods/{segment(name)}"
            try:
                self._cloud.call("PATCH", path, body, content_type=MERGE_PATCH)
            except NotFoundError:  # gone since it was listed
                continue

    def _pods(self, group: ContainerGroup) -> list[tuple[str, Mapping[str, str], Mapping[str, str]]]:
        """Name, labels and annotations of each pod."""
        path = f"/api/v1/namespaces/{self._namespace}/pods"
        pods = []
        for pod in _items(self._cloud.get(path, labelSelector=f"{GROUP_LABEL}={group.id}")):
            meta = pod.get("metadata") or {}
            pods.append((str(meta.get("name")), meta.get("labels") or {}, meta.get("annotations") or {}))
        return pods

    def _decode(self, wire: Mapping[str, Any], group_id: str) -> ContainerGroup:
        try:
            meta, replicas = wire["metadata"], wire["spec"].get("replicas", 1)
            labels, name = meta.get("labels") or {}, meta["name"]
            current = (wire.get("status") or {}).get("readyReplicas", 0)
        except (KeyError, TypeError, AttributeError):
            raise ProviderError("Kubernetes answered with a Deployment without metadata or spec.") from None
        return ContainerGroup(
            id=group_id,
            name=name,
            organization=labels.get(ORGANIZATION_LABEL, DEFAULT),
            project=labels.get(PROJECT_LABEL, DEFAULT),
            slots=self._slots,
            state=GroupState.RUNNING if replicas else GroupState.STOPPED,
            replicas=replicas,
            current=current,
        )


def _whole(text: str | None) -> int:
    """A cost as it was written; one that is no number counts as none."""
    return int(text) if text is not None and text.lstrip("-").isdecimal() else IDLE_COST


def _items(answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    items = answer.get("items")
    if not isinstance(items, list) or not all(isinstance(one, Mapping) for one in items):
        raise ProviderError("Kubernetes answered with a list that is none.")
    return items
