"""Notices of a machine's end, from servers that speak as the clouds' metadata services do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kelpie_worker import notices
from kelpie_worker.notices import Azure, Cloud, Ec2, Gcp, NoticeWatcher
from kelpie_worker.stop import Stop
from tests.unit.worker.conftest import Request, ScriptedServer
from tests.waiting import wait_until

AZURE_EVENT = {
    "EventId": "e",
    "EventType": "Preempt",
    "ResourceType": "VirtualMachine",
    "Resources": ["machine-1"],
    "EventStatus": "Scheduled",
    "NotBefore": "Tue, 24 Nov 2026 18:29:47 GMT",
}


class FakeEc2:
    """IMDSv2: nothing without a token, which ends."""

    def __init__(self) -> None:
        self.action: Any = None
        self.lifecycle: str | None = None
        self.token = "token-1"

    def __call__(self, request: Request) -> tuple[int, Any]:
        if request.path == "/latest/api/token":
            well = request.method == "PUT" and "x-aws-ec2-metadata-token-ttl-seconds" in request.headers
            return (200, self.token.encode()) if well else (405, b"")
        if request.headers.get("x-aws-ec2-metadata-token") != self.token:
            return 401, b""
        if request.path == "/latest/meta-data/spot/instance-action" and self.action is not None:
            return 200, self.action
        if request.path == "/latest/meta-data/autoscaling/target-lifecycle-state" and self.lifecycle:
            return 200, self.lifecycle.encode()
        return 404, b"<html>not found"


class FakeAzure:
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def __call__(self, request: Request) -> tuple[int, Any]:
        if request.headers.get("metadata") != "true":
            return 400, {}
        if request.path.startswith("/metadata/instance/compute?api-version="):
            return 200, {"name": "machine-1"}
        if request.path.startswith("/metadata/scheduledevents?api-version="):
            return 200, {"DocumentIncarnation": 1, "Events": self.events}
        return 404, {}


class FakeGcp:
    """Google's header is asked for, and is in every answer."""

    def __init__(self) -> None:
        self.values = {"id": "1234", "preempted": "FALSE", "maintenance-event": "NONE"}

    def __call__(self, request: Request) -> tuple[int, Any, dict[str, str]]:
        if request.headers.get("metadata-flavor") != "Google":
            return 403, b"", {}
        name = request.path.removeprefix("/computeMetadata/v1/instance/")
        if name not in self.values:
            return 404, b"", {"Metadata-Flavor": "Google"}
        return 200, f"{self.values[name]}\n".encode(), {"Metadata-Flavor": "Google"}


def test_ec2_announces_the_end_of_a_spot_instance(server: ScriptedServer) -> None:
    server.answer = fake = FakeEc2()
    cloud = Ec2(server.url)
    assert cloud.is_here()
    assert cloud.notice() is None
    fake.token = "token-2"  # the old one is over
    fake.action = {"action": "terminate", "time": "2026-11-24T18:00:00Z"}
    assert cloud.notice() == "EC2 will terminate this instance at 2026-11-24T18:00:00Z"


def test_ec2_announces_scale_in(server: ScriptedServer) -> None:
    server.answer = fake = FakeEc2()
    fake.lifecycle = "InService"
    cloud = Ec2(server.url)
    assert cloud.is_here()
    assert cloud.notice() is None
    fake.lifecycle = "Terminated"
    assert cloud.notice() == "Auto Scaling terminates this instance"


@pytest.mark.parametrize(
    ("name", "value", "notice"),
    [
        ("preempted", "TRUE", "Google Cloud preempts this machine"),
        (
            "maintenance-event",
            "TERMINATE_ON_HOST_MAINTENANCE",
            "Google Cloud ends this machine for maintenance",
        ),
    ],
)
def test_google_announces_what_ends_this_machine(
    server: ScriptedServer, name: str, value: str, notice: str
) -> None:
    server.answer = fake = FakeGcp()
    cloud = Gcp(server.url)
    assert cloud.is_here()
    assert cloud.notice() is None
    fake.values["maintenance-event"] = "MIGRATE_ON_HOST_MAINTENANCE"
    assert cloud.notice() is None
    fake.values[name] = value
    assert cloud.notice() == notice


@pytest.mark.parametrize("kind", ["Preempt", "Terminate", "Reboot", "Redeploy"])
def test_azure_announces_what_ends_this_machine(server: ScriptedServer, kind: str) -> None:
    server.answer = fake = FakeAzure()
    cloud = Azure(server.url)
    assert cloud.is_here()
    fake.events = [AZURE_EVENT | {"Resources": ["machine-2"]}, AZURE_EVENT | {"EventType": "Freeze"}]
    assert cloud.notice() is None
    fake.events.append(AZURE_EVENT | {"EventType": kind})
    assert cloud.notice() == f"Azure says {kind} not before Tue, 24 Nov 2026 18:29:47 GMT"


def test_only_the_cloud_that_this_machine_is_of_is_found(server: ScriptedServer) -> None:
    server.answer = FakeEc2()
    assert not Gcp(server.url).is_here()
    assert not Azure(server.url).is_here()
    server.answer = FakeAzure()
    assert not Ec2(server.url).is_here()
    assert not Gcp(server.url).is_here()
    server.answer = FakeGcp()
    assert not Ec2(server.url).is_here()
    assert not Azure(server.url).is_here()


class Scripted:
    """A cloud whose answers are set; an exception is raised, the last answer stays."""

    name = "scripted"

    def __init__(self, *answers: Any, here: bool = True) -> None:
        self.here = here
        self.answers = list(answers)
        self.asked = 0

    def is_here(self) -> bool:
        return self.here

    def notice(self) -> str | None:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Stop]]:
    monkeypatch.setattr(notices, "_PROBES_S", (0.0, 0.01))
    watchers: list[NoticeWatcher] = []

    def begin(*clouds: Cloud) -> Stop:
        stop = Stop()
        watchers.append(NoticeWatcher(clouds, stop, poll_s=0.01))
        watchers[-1].start()
        return stop

    yield begin
    for watcher in watchers:
        watcher.close()
        if watcher._clouds:
            watcher._thread.join()


def test_a_notice_stops_the_worker_in_good_order(watch: Callable[..., Stop]) -> None:
    cloud = Scripted(None, ValueError("nonsense"), KeyError("time"), None, "the end")
    stop = watch(Scripted("not me", here=False), cloud)
    assert stop.requested.wait(30)
    assert cloud.asked == 5
    assert not stop.at_once.is_set()


def test_a_notice_hurries_nobody_who_stops_already(watch: Callable[..., Stop]) -> None:
    asked = threading.Event()

    class Slow(Scripted):
        def notice(self) -> str | None:
            asked.wait(30)
            return "the end"

    stop = watch(Slow(None))
    stop.request()
    asked.set()
    wait_until(lambda: not any(t.name == "notices" for t in threading.enumerate()), "the end")
    assert not stop.at_once.is_set()


def test_where_no_service_is_nothing_is_asked_any_more(
    watch: Callable[..., Stop], server: ScriptedServer
) -> None:
    server.answer = lambda request: (404, b"")
    watcher_stop = watch(*(kind(server.url) for kind in notices.CLOUDS.values()))
    wait_until(lambda: not any(t.name == "notices" for t in threading.enumerate()), "it to give up")
    assert not watcher_stop.requested.is_set()
    assert len(server.requests) == 6  # three services, twice


def test_what_is_asked_is_a_setting() -> None:
    stop = Stop()
    assert NoticeWatcher.of("none", "http://127.0.0.1:1", stop)._clouds == []
    (azure,) = NoticeWatcher.of("azure", "http://127.0.0.1:1", stop)._clouds
    assert azure.name == "azure"
    assert len(NoticeWatcher.of("auto", "http://127.0.0.1:1", stop)._clouds) == 3
