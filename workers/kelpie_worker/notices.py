"""What a cloud says about the end of its machine, from its metadata service.

Kubernetes and SaladCloud say it by SIGTERM, which needs nothing of this: see stop.py.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import structlog
import urllib3

from kelpie_worker.stop import Stop

POLL_S = 5.0
"""How often the service is asked, as AWS advises: there are two minutes, and thirty seconds elsewhere."""

_PROBES_S = (0.0, 5.0, 30.0)  # a service may come up after the worker
_TIMEOUT = urllib3.Timeout(connect=1, read=3)
_MAX_ANSWER_BYTES = 1 << 20

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


class Cloud(Protocol):
    """The metadata service of one provider. Both raise urllib3's HTTPError, or ValueError for nonsense."""

    name: str

    def is_here(self) -> bool:
        """Whether this machine is one of that provider."""

    def notice(self) -> str | None:
        """What is said about the end of this machine; None: nothing."""


class Ec2:
    """Amazon EC2, instance metadata service version 2: spot interruptions, scale-in by Auto Scaling.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
    """

    name = "ec2"
    _TOKEN_TTL_S = 21_600

    def __init__(self, base_url: str) -> None:
        self._http = _Http(base_url)
        self._token = ""

    def is_here(self) -> bool:
        """A token is given by nobody else."""
        return self._renew()

    def notice(self) -> str | None:
        """`spot/instance-action` is 404 until there is one."""
        action = self._get("spot/instance-action")
        if action is not None:
            found = json.loads(action)
            return f"EC2 will {found['action']} this instance at {found['time']}"
        if self._get("autoscaling/target-lifecycle-state") == "Terminated":
            return "Auto Scaling terminates this instance"
        return None

    def _get(self, path: str) -> str | None:
        for renewed in (False, True):
            status, body, _ = self._http.ask(
                "GET", f"/latest/meta-data/{path}", {"X-aws-ec2-metadata-token": self._token}
            )
            if status != 401:  # the token is over, or the machine was resumed elsewhere
                return body if status == 200 else None
            if renewed or not self._renew():
                break
        return None

    def _renew(self) -> bool:
        ttl = {"X-aws-ec2-metadata-token-ttl-seconds": str(self._TOKEN_TTL_S)}
        status, body, _ = self._http.ask("PUT", "/latest/api/token", ttl)
        self._token = body.strip() if status == 200 else ""
        return self._token != "" and self._token.isascii() and self._token.isprintable()


class Gcp:
    """Google Compute Engine: preemption of spot machines, and maintenance that ends them.

    https://cloud.google.com/compute/docs/instances/create-use-preemptible
    """

    name = "gcp"
    _FLAVOR = "Metadata-Flavor"

    def __init__(self, base_url: str) -> None:
        self._http = _Http(base_url)

    def is_here(self) -> bool:
        """Google's answers carry the header that it asks for."""
        _, _, headers = self._http.ask("GET", "/computeMetadata/v1/instance/id", {self._FLAVOR: "Google"})
        return bool(headers.get(self._FLAVOR) == "Google")

    def notice(self) -> str | None:
        """`preempted` is FALSE until the machine is."""
        if self._get("preempted") == "TRUE":
            return "Google Cloud preempts this machine"
        if self._get("maintenance-event") == "TERMINATE_ON_HOST_MAINTENANCE":
            return "Google Cloud ends this machine for maintenance"
        return None

    def _get(self, name: str) -> str | None:
        status, body, _ = self._http.ask(
            "GET", f"/computeMetadata/v1/instance/{name}", {self._FLAVOR: "Google"}
        )
        return body.strip() if status == 200 else None


class Azure:
    """Microsoft Azure: scheduled events that end this machine.

    https://learn.microsoft.com/azure/virtual-machines/linux/scheduled-events
    """

    name = "azure"
    _HEADERS = {"Metadata": "true"}  # noqa: RUF012  (never changed)
    _ENDS = frozenset({"Preempt", "Terminate", "Reboot", "Redeploy"})

    def __init__(self, base_url: str) -> None:
        self._http = _Http(base_url)
        self._machine = ""

    def is_here(self) -> bool:
        """Learns the name of the machine, by which events tell the machines of a scale set apart."""
        path = "/metadata/instance/compute?api-version=2021-02-01"
        status, body, _ = self._http.ask("GET", path, self._HEADERS)
        if status != 200:
            return False
        self._machine = str(json.loads(body)["name"])
        return True

    def notice(self) -> str | None:
        """Events of other machines of the same set are in the same list."""
        path = "/metadata/scheduledevents?api-version=2020-07-01"
        status, body, _ = self._http.ask("GET", path, self._HEADERS)
        if status != 200:
            return None
        for event in json.loads(body)["Events"]:
            if event["EventType"] in self._ENDS and self._machine in event["Resources"]:
                return f"Azure says {event['EventType']} not before {event.get('NotBefore') or 'now'}"
        return None


CLOUDS: dict[str, Callable[[str], Cloud]] = {"ec2": Ec2, "gcp": Gcp, "azure": Azure}


class NoticeWatcher:
    """Asks the cloud that this machine is of, if any, and stops the worker when that will end the machine."""

    def __init__(self, clouds: Sequence[Cloud], stop: Stop, *, poll_s: float = POLL_S) -> None:
        self._clouds = clouds
        self._stop = stop
        self._poll_s = poll_s
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notices", daemon=True)

    @classmethod
    def of(cls, choice: str, base_url: str, stop: Stop) -> NoticeWatcher:
        """``choice``: a name of a cloud, ``auto`` (ask all which is here), or ``none``."""
        names = {"auto": list(CLOUDS), "none": []}.get(choice, [choice])
        return cls([CLOUDS[name](base_url) for name in names], stop)

    def start(self) -> None:
        """Begin to ask, in the background."""
        if self._clouds:
            self._thread.start()

    def close(self) -> None:
        """Ask no more."""
        self._closed.set()

    def _run(self) -> None:
        cloud = self._find()
        if cloud is None:
            return
        _log.info("the cloud will be asked for notices of this machine's end", cloud=cloud.name)
        failing = False
        pause_s = 0.0
        while not self._closed.wait(pause_s):
            pause_s = self._poll_s
            try:
                notice = cloud.notice()
                failing = False
            except (urllib3.exceptions.HTTPError, ValueError, KeyError, TypeError) as error:
                if not failing:
                    _log.warning("the cloud does not say whether this machine ends", error=str(error)[:300])
                failing = True
                continue
            if notice is not None:
                _log.warning("this machine is about to end", notice=notice[:300])
                self._stop.request_once()
                return

    def _find(self) -> Cloud | None:
        for pause_s in _PROBES_S:
            if self._closed.wait(pause_s):
                return None
            for cloud in self._clouds:
                try:
                    if cloud.is_here():
                        return cloud
                except (urllib3.exceptions.HTTPError, ValueError, KeyError, TypeError):
                    continue
        return None


class _Http:
    """Small requests to a service next door: neither proxies nor redirects nor retries."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._pool = urllib3.PoolManager(timeout=_TIMEOUT, retries=False)

    def ask(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str, Any]:
        """Status, text and headers of the answer. Raises urllib3's HTTPError."""
        answer = self._pool.request(
            method, self._base_url + path, headers=headers, redirect=False, preload_content=False
        )
        try:
            text = answer.read(_MAX_ANSWER_BYTES, decode_content=True).decode("utf-8", "replace")
        finally:
            answer.close()
        return answer.status, text, answer.headers
