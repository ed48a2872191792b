"""The provider of SaladCloud against a server that speaks its API, and fails as clouds do."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest

from kelpie.errors import NotFoundError
from kelpie.providers import ProviderError, SaladProvider, UnknownPlaceError
from kelpie.providers import cloud as module
from kelpie.providers.cloud import Cloud
from kelpie.scaling import ContainerGroup, GroupState
from tests.unit.providers.clouds import Fault, SaladCloud, served

ORG, PROJECT = "org one", "project-1"


@pytest.fixture
def salad() -> Iterator[SaladCloud]:
    cloud = SaladCloud()
    with served(cloud):
        yield cloud


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, none of which is slept."""
    monkeypatch.setattr(module.random, "uniform", lambda _low, _high: 1.0)
    return []


@pytest.fixture
def provider(salad: SaladCloud, pauses: list[float]) -> SaladProvider:
    return made(salad, pauses)


def made(salad: SaladCloud, pauses: list[float], *, key: str = SaladCloud.key, **how: str) -> SaladProvider:
    cloud = Cloud("SaladCloud", salad.url, lambda: {"Salad-Api-Key": key}, timeout_s=30, sleep=pauses.append)
    return SaladProvider(cloud, slots=3, organization=how.get("organization"), project=how.get("project"))


def found(provider: SaladProvider, group_id: str) -> ContainerGroup:
    group = provider.lookup(group_id, organization=ORG, project=PROJECT)
    assert group is not None
    return group


def test_a_group_is_found_by_its_id_and_asked_for_by_its_name_from_then_on(
    salad: SaladCloud, provider: SaladProvider
) -> None:
    salad.add("other")
    group_id = salad.add("sims", status="running", replicas=4)
    assert found(provider, group_id) == ContainerGroup(
        id=group_id, name="sims", organization=ORG, project=PROJECT,
        slots=3, state=GroupState.RUNNING, replicas=4, current=2,
    )  # fmt: skip
    assert found(provider, group_id).replicas == 4
    assert salad.asked == [("GET", salad.home), ("GET", f"{salad.home}/sims")]


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("stopped", GroupState.STOPPED),
        ("failed", GroupState.STOPPED),
        ("succeeded", GroupState.STOPPED),
        ("pending", GroupState.RUNNING),
        ("deploying", GroupState.RUNNING),
        ("running", GroupState.RUNNING),
    ],
)
def test_what_runs_or_is_about_to_is_not_started_again(
    salad: SaladCloud, provider: SaladProvider, status: str, state: GroupState
) -> None:
    assert found(provider, salad.add("sims", status=status)).state is state


def test_a_group_made_anew_under_the_name_is_another_one(salad: SaladCloud, provider: SaladProvider) -> None:
    old = salad.add("sims")
    found(provider, old)
    new = salad.add("sims")
    assert provider.lookup(old, organization=ORG, project=PROJECT) is None
    assert found(provider, new).name == "sims"
    salad.groups["renamed"] = salad.groups.pop("sims") | {"name": "renamed"}
    assert found(provider, new).name == "renamed"


def test_a_group_of_another_project_is_not_found(salad: SaladCloud, provider: SaladProvider) -> None:
    group_id = salad.add("sims")
    for organization, project in ((ORG, "../project-1"), ("other", PROJECT)):
        with pytest.raises(UnknownPlaceError, match=f"no project {project!r} of an organization"):
            provider.lookup(group_id, organization=organization, project=project)
    assert provider.lookup(str(uuid.uuid4()), organization=ORG, project=PROJECT) is None
    assert all(path.count("/") == 5 for _, path in salad.asked)  # a name never becomes a path


def test_the_admin_finds_groups_where_the_settings_say(salad: SaladCloud, pauses: list[float]) -> None:
    group_id = salad.add("sims")
    assert made(salad, pauses).lookup(group_id) is None
    provider = made(salad, pauses, organization=ORG, project=PROJECT)
    group = provider.lookup(group_id)
    assert group is not None
    assert (group.organization, group.project) == (ORG, PROJECT)


def test_a_group_is_scaled_started_and_stopped(salad: SaladCloud, provider: SaladProvider) -> None:
    group = found(provider, salad.add("sims"))
    for _ in range(2):  # every call may be repeated: what is so already is no error
        provider.scale(group, 7)
        provider.start(group)
    assert found(provider, group.id).running_replicas == 7
    assert set(salad.types) == {"application/merge-patch+json"}
    for _ in range(2):
        provider.stop(group)
    assert found(provider, group.id).state is GroupState.STOPPED


def test_a_refused_start_of_a_stopped_group_is_told(salad: SaladCloud, provider: SaladProvider) -> None:
    group = found(provider, salad.add("sims"))
    salad.faults = [Fault(400)]
    with pytest.raises(ProviderError, match=r"answered 400 to POST .*/start"):
        provider.start(group)


def test_an_instance_is_replaced_by_the_name_of_its_machine(
    salad: SaladCloud, provider: SaladProvider
) -> None:
    group = found(provider, salad.add("sims", status="running"))
    salad.instances["sims"] = [
        {"id": "instance-1", "machine_id": "machine-1", "state": "running"},
        {"id": "instance-2", "machine_id": "machine-2", "state": "running"},
    ]
    provider.reallocate(group, "machine-2")
    provider.reallocate(group, "instance-1")
    provider.reallocate(group, "gone already")
    assert salad.reallocated == ["instance-2", "instance-1"]


@pytest.mark.parametrize(
    "fault", [Fault(500), Fault(502), Fault(503), Fault(504), Fault(429), Fault(), Fault(200, body=b"<html>")]
)
def test_what_may_pass_is_tried_again_with_growing_pauses(
    salad: SaladCloud, provider: SaladProvider, pauses: list[float], fault: Fault
) -> None:
    group = found(provider, salad.add("sims"))
    salad.faults = [fault, fault]
    provider.scale(group, 2)
    assert salad.groups["sims"]["replicas"] == 2
    assert pauses == [0.5, 1.0]


def test_a_lost_answer_to_a_start_is_no_failure(salad: SaladCloud, provider: SaladProvider) -> None:
    group = found(provider, salad.add("sims"))
    salad.faults = [Fault(acts=True)]
    provider.start(group)
    assert salad.groups["sims"]["current_state"]["status"] == "deploying"


def test_a_cloud_that_stays_down_is_given_up_soon(
    salad: SaladCloud, provider: SaladProvider, pauses: list[float]
) -> None:
    group = found(provider, salad.add("sims"))
    salad.faults = [Fault(503)] * 9
    with pytest.raises(ProviderError, match=r"SaladCloud answered 503 to PATCH .*sims \(4 tries\)"):
        provider.scale(group, 2)
    assert len(pauses) == module.MAX_TRIES - 1


def test_a_project_that_is_gone_says_nothing_of_its_groups(
    salad: SaladCloud, provider: SaladProvider
) -> None:
    group_id = salad.add("sims")
    assert found(provider, group_id).name == "sims"
    salad.home = "/organizations/org%20one/projects/renamed/containers"
    with pytest.raises(UnknownPlaceError):
        provider.lookup(group_id, organization=ORG, project=PROJECT)
    salad.home = SaladCloud.home
    assert found(provider, group_id).name == "sims"


def test_a_404_is_not_tried_again(salad: SaladCloud, provider: SaladProvider, pauses: list[float]) -> None:
    group = found(provider, salad.add("sims"))
    del salad.groups["sims"]
    calls: tuple[Callable[[], None], ...] = (
        lambda: provider.scale(group, 1),
        lambda: provider.start(group),
        lambda: provider.stop(group),
        lambda: provider.reallocate(group, "n"),
    )
    for call in calls:
        before = len(salad.asked)
        with pytest.raises(NotFoundError):
            call()
        assert len(salad.asked) == before + 1
    assert pauses == []


def test_the_cloud_says_when_to_come_back(
    salad: SaladCloud, provider: SaladProvider, pauses: list[float]
) -> None:
    group_id = salad.add("sims")
    salad.faults = [Fault(429, {"Retry-After": "7"}), Fault(429, {"Retry-After": "Wed, 21 Oct"})]
    assert found(provider, group_id)
    assert pauses == [7.0, 1.0]
    salad.faults = [Fault(429, {"Retry-After": "3600"})]
    with pytest.raises(ProviderError, match="wants to be left alone for 3600 s"):
        provider.lookup(group_id, organization=ORG, project=PROJECT)
    assert pauses == [7.0, 1.0]  # a call never takes longer than it may


@pytest.mark.parametrize("status", [301, 400, 401, 403, 413])
def test_a_refusal_is_told_once_without_key_or_body(
    salad: SaladCloud, pauses: list[float], status: int
) -> None:
    salad.faults = [Fault(status, {"Location": "http://127.0.0.1:9/"}, b'{"title": "other-secret"}')]
    provider = made(salad, pauses, key="hunter2")
    with pytest.raises(ProviderError, match=f"SaladCloud answered {status} to GET") as caught:
        provider.lookup(str(uuid.uuid4()), organization=ORG, project=PROJECT)
    assert len(salad.asked) == 1
    assert "hunter2" not in str(caught.value)
    assert "other-secret" not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'{"items": 3}',
        b'{"items": [{"id": "GROUP", "name": 3}]}',
        b"[" * 100_000,
        b"x" * 2_000_000,
    ],
)
def test_nonsense_is_no_group(
    salad: SaladCloud, provider: SaladProvider, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 1_000_000)
    group_id = salad.add("sims")
    salad.faults = [Fault(200, body=body.replace(b"GROUP", group_id.encode()))] * module.MAX_TRIES
    with pytest.raises(ProviderError):
        provider.lookup(group_id, organization=ORG, project=PROJECT)
