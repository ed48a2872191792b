"""SaladCloud's and Kubernetes' APIs on the loopback, as far as a provider uses them, with faults on demand.

Paths, verbs, content types and the shapes of objects are those of the published schemas.
"""

from __future__ import annotations

import json
import re
import ssl
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class Fault:
    """What happens instead of an answer; ``acts``: after the request was carried out."""

    status: int = 0  # 0: the connection breaks
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"title": "a test says so"}'
    acts: bool = False
    silent: bool = False  # nothing is answered until the client gives up


Reply = tuple[int, Any]


class Cloud:
    """Notes every request, then lets ``faults`` happen, one per request, and then answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []  # method and path
        self.types: list[str] = []  # content types of bodies
        self.faults: list[Fault] = []
        self.down: set[str] = set()  # whatever is asked for at a path with this in it is answered 503
        self.url = ""

    def serve(self, method: str, path: str, query: dict[str, list[str]], headers: Any, body: Any) -> Reply:
        raise NotImplementedError

    def said(self, method: str) -> list[str]:
        """The paths of the requests with that method."""
        return [path for one, path in self.asked if one == method]


class SaladCloud(Cloud):
    """One project with container groups."""

    key = "salad-key-of-the-test"
    home = "/organizations/org%20one/projects/project-1/containers"

    def __init__(self) -> None:
        super().__init__()
        self.groups: dict[str, dict[str, Any]] = {}
        self.instances: dict[str, list[dict[str, Any]]] = {}
        self.reallocated: list[str] = []

    def add(self, name: str, *, status: str = "stopped", replicas: int = 0) -> str:
        group_id = str(uuid.uuid4())
        counts = {"allocating_count": 0, "creating_count": 0, "running_count": 2, "stopping_count": 0}
        self.groups[name] = {
            "id": group_id,
            "name": name,
            "display_name": name,
            "container": {"image": "i", "resources": {"cpu": 1, "memory": 1024, "gpu_classes": []}},
            "autostart_policy": False,
            "restart_policy": "always",
            "replicas": replicas,
            "current_state": {"status": status, "instance_status_counts": counts},
            "create_time": "2026-11-01T00:00:00Z",
        }
        return group_id

    def serve(self, method: str, path: str, query: dict[str, list[str]], headers: Any, body: Any) -> Reply:
        if headers.get("Salad-Api-Key") != self.key:
            return 401, {"title": "Unauthorized"}
        if path == self.home and method == "GET":
            return 200, {"items": list(self.groups.values())}
        found = re.fullmatch(rf"{re.escape(self.home)}/([^/]+)(/.*)?", path)
        if found is None or found[1] not in self.groups:
            return 404, {"title": "Not Found"}
        group, rest = self.groups[found[1]], found[2]
        state = group["current_state"]
        match method, rest:
            case "GET", None:
                return 200, group
            case "PATCH", None:
                if headers.get("Content-Type") != "application/merge-patch+json":
                    return 415, {"title": "Unsupported Media Type"}
                group.update(body)
                return 200, group
            case "POST", "/start" | "/stop":
                wanted = "deploying" if rest == "/start" else "stopped"
                if (state["status"] == "stopped") == (wanted == "stopped"):
                    return 400, {"title": "it is in that state"}
                state["status"] = wanted
                return 202, None
            case "GET", "/instances":
                return 200, {"instances": self.instances.get(found[1], [])}
            case "POST", _ if rest and rest.endswith("/reallocate"):
                self.reallocated.append(rest.split("/")[2])
                return 202, None
        return 405, {"title": "Method Not Allowed"}


class Kubernetes(Cloud):
    """One namespace with Deployments and their pods. When one shrinks, the cheapest pods go, as published:
    by deletion cost, and then the newest."""

    namespace = "sims"

    def __init__(self) -> None:
        super().__init__()
        self.token = "token-1"
        self.deployments: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, dict[str, Any]] = {}
        self._count = 0

    def add(self, name: str, *, replicas: int = 0, **labels: str) -> str:
        group_id = str(uuid.uuid4())
        meta = {"name": name, "namespace": self.namespace, "labels": {"kelpie.dev/container-group": group_id}}
        meta["labels"] |= {f"kelpie.dev/{key}": value for key, value in labels.items()}  # type: ignore[operator]
        self.deployments[name] = {"metadata": meta, "spec": {"replicas": 0}, "status": {}}
        self._resize(name, replicas)
        return group_id

    def of(self, name: str) -> list[str]:
        """The pods of a Deployment, the oldest first."""
        return [pod for pod in self.pods if pod.startswith(f"{name}-")]

    def _resize(self, name: str, replicas: int) -> None:
        deployment = self.deployments[name]
        deployment["spec"]["replicas"] = replicas
        while len(self.of(name)) < replicas:
            self._count += 1
            labels = dict(deployment["metadata"]["labels"])
            pod = f"{name}-{self._count}"
            self.pods[pod] = {"metadata": {"name": pod, "labels": labels, "annotations": {}}}
        newest_first = list(reversed(self.of(name)))
        for pod in sorted(newest_first, key=self._cost)[: len(newest_first) - replicas]:
            del self.pods[pod]
        deployment["status"] = {"readyReplicas": replicas} if replicas else {}

    def _cost(self, pod: str) -> int:
        notes = self.pods[pod]["metadata"]["annotations"]
        return int(notes.get("controller.kubernetes.io/pod-deletion-cost", "0"))

    def serve(self, method: str, path: str, query: dict[str, list[str]], headers: Any, body: Any) -> Reply:
        if headers.get("Authorization") != f"Bearer {self.token}":
            return 401, {"kind": "Status", "code": 401}
        if method == "PATCH" and headers.get("Content-Type") != "application/merge-patch+json":
            return 415, {"kind": "Status", "code": 415}
        apps = f"/apis/apps/v1/namespaces/{self.namespace}/deployments"
        core = f"/api/v1/namespaces/{self.namespace}/pods"
        if method == "GET" and path in {apps, core}:
            label, _, value = query["labelSelector"][0].partition("=")
            every = self.deployments if path == apps else self.pods
            items = [one for one in every.values() if one["metadata"]["labels"].get(label) == value]
            return 200, {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}
        name = path.split("/")[6] if len(path.split("/")) > 6 else ""
        if method == "PATCH" and path.startswith(apps) and path.endswith("/scale"):
            name = path.removesuffix("/scale").rpartition("/")[2]
            if name in self.deployments:
                self._resize(name, body["spec"]["replicas"])
                return 200, {"kind": "Scale", "spec": body["spec"]}
        elif path.startswith(core) and name in self.pods:
            if method == "PATCH":
                self.pods[name]["metadata"]["annotations"] |= body["metadata"]["annotations"]
                return 200, self.pods[name]
            if method == "DELETE":
                del self.pods[name]
                deployment = name.rpartition("-")[0]
                self._resize(deployment, self.deployments[deployment]["spec"]["replicas"])
                return 200, {"kind": "Status", "status": "Success"}
        return 404, {"kind": "Status", "code": 404}


@contextmanager
def served(cloud: Cloud, tls: Path | None = None) -> Iterator[None]:
    """Have the cloud answer at its ``url``; with ``tls``, a file of a certificate and its key, by HTTPS."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def _serve(self) -> None:
            parts = urlsplit(self.path)
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            cloud.asked.append((self.command, parts.path))
            if raw:
                cloud.types.append(self.headers.get("Content-Type", ""))
            fault = cloud.faults.pop(0) if cloud.faults else None
            if any(word in parts.path for word in cloud.down):
                fault = Fault(503)
            status, answer, headers = 0, None, dict[str, str]()
            if fault is None or fault.acts:
                query = parse_qs(parts.query)
                body = json.loads(raw) if raw else None
                status, answer = cloud.serve(self.command, parts.path, query, self.headers, body)
            data = b"" if answer is None else json.dumps(answer).encode()
            if fault is not None:
                status, headers, data = fault.status, fault.headers, fault.body
            if fault is not None and fault.silent:
                self.connection.settimeout(30)
                self.connection.recv(1)
            if not status:
                self.close_connection = True
                return
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815  (names of http.server)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    scheme = "http"
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    cloud.url = f"{scheme}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
