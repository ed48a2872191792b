"""Tells Kubernetes what the end of this pod would cost, by an annotation that scale-in heeds.

https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#pod-deletion-cost
The pod's service account must be allowed to ``patch`` pods of its namespace.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import structlog
import urllib3

from kelpie_worker.deletion_cost import OutOfReachError

ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
POD_NAME = "KELPIE_POD_NAME"
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT = urllib3.Timeout(connect=3, read=10)
_REFUSED = frozenset({401, 403, 404})
_FACTOR = 1.5
"""By how much a cost must differ from the one told before: every change is a write to the API server."""

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


class PodAnnotation:
    """The annotation of the pod that this process runs in."""

    def __init__(self, url: str, account: Path) -> None:
        """``url``: the pod at the API server; ``account``: the folder of the service account."""
        self._url = url
        self._token = account / "token"
        self._http = urllib3.PoolManager(
            ca_certs=str(account / "ca.crt"), timeout=_TIMEOUT, retries=urllib3.Retry(2, redirect=0)
        )
        self._told = 0

    @classmethod
    def find(cls, environ: Mapping[str, str], account: Path = _ACCOUNT) -> PodAnnotation | None:
        """The one of this pod; None outside of Kubernetes, and in a pod without a service account."""
        host = environ.get("KUBERNETES_SERVICE_HOST")
        port = environ.get("KUBERNETES_SERVICE_PORT_HTTPS") or environ.get("KUBERNETES_SERVICE_PORT", "443")
        name = environ.get(POD_NAME) or environ.get("HOSTNAME")  # a pod's name, unless it is told another
        try:
            namespace = (account / "namespace").read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
        if not (host and name and namespace and (account / "token").exists()):
            return None
        server = f"[{host}]" if ":" in host else host
        path = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(name, safe='')}"
        return cls(f"https://{server}:{port}{path}", account)

    def set_deletion_cost(self, cost: int) -> bool:
        """Annotate the pod, if that is worth a write; False: this account may not. OutOfReachError."""
        low, high = sorted((cost, self._told))
        if low > 0 and high < _FACTOR * low:
            return True
        patch = {"metadata": {"annotations": {ANNOTATION: str(cost)}}}
        try:
            answer = self._http.request(
                "PATCH",
                self._url,
                body=json.dumps(patch),
                headers={
                    # the kubelet renews it in its file
                    "Authorization": f"Bearer {self._token.read_text(encoding='ascii').strip()}",
                    "Content-Type": "application/merge-patch+json",
                },
            )
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            _log.warning("Kubernetes takes no deletion cost", error=f"{type(error).__name__}: {error}"[:300])
            raise OutOfReachError from error
        if answer.status in _REFUSED:
            _log.warning(
                "Kubernetes refuses a deletion cost: may this service account patch pods?",
                status=answer.status,
            )
            return False
        if answer.status >= 300:
            _log.warning("Kubernetes takes no deletion cost now", status=answer.status)
            raise OutOfReachError
        self._told = cost
        return True
