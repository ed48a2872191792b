from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from kelpie_worker.deletion_cost import (
    LONGEST_PAUSE_S,
    MAX_DELETION_COST,
    STEP,
    DeletionCost,
    OutOfReachError,
)
from kelpie_worker.imds import MetadataService
from tests.unit.worker.conftest import ScriptedServer
from tests.waiting import wait_until


@pytest.fixture
def tell(server: ScriptedServer) -> Iterator[Callable[..., DeletionCost]]:
    told: list[DeletionCost] = []

    def start(cost: Callable[[], int]) -> DeletionCost:
        told.append(DeletionCost(cost, MetadataService(server.url).set_deletion_cost, interval_s=0.005))
        told[-1].start()
        return told[-1]

    yield start
    for one in told:
        one.close()
        one._thread.join()


def test_what_matters_is_told_and_no_more(server: ScriptedServer, tell: Callable[..., DeletionCost]) -> None:
    server.answer = lambda request: (204, b"")
    costs = [0, 0, 5, 6, 5 + STEP, MAX_DELETION_COST, 1, 0]
    rest = iter(costs)
    tell(lambda: next(rest, 0))
    expected = [0, 5, 5 + STEP, MAX_DELETION_COST, 1, 0]
    wait_until(lambda: len(server.requests) >= len(expected), "all to be told")
    assert [request.body["deletion_cost"] for request in server.requests] == expected
    first = server.requests[0]
    assert (first.method, first.path, first.headers["metadata"]) == ("PUT", "/v1/deletion-cost", "true")


def test_where_nobody_takes_it_nothing_is_told_any_more(
    server: ScriptedServer, tell: Callable[..., DeletionCost]
) -> None:
    server.answer = lambda request: (404, b"")
    cost = tell(lambda: 0)
    cost._thread.join(30)
    assert not cost._thread.is_alive()
    assert len(server.requests) == 2


def test_who_took_a_cost_once_is_told_again_after_an_outage(
    server: ScriptedServer, tell: Callable[..., DeletionCost]
) -> None:
    status = 204
    server.answer = lambda request: (status, b"")
    now = 0
    tell(lambda: now)
    wait_until(lambda: server.requests, "the first to be told")
    status, now = 503, 5
    wait_until(lambda: len(server.requests) > 4, "tries that are in vain")
    status = 204
    asked = len(server.requests)
    wait_until(lambda: len(server.requests) > asked, "another try")
    assert {request.body["deletion_cost"] for request in server.requests[1:]} == {5}


def test_who_is_out_of_reach_from_the_start_is_tried_ever_more_slowly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    tried = 0

    def tell(cost: int) -> bool:
        nonlocal tried
        tried += 1
        if tried <= 20:
            raise OutOfReachError
        return True

    cost = DeletionCost(lambda: 7, tell, interval_s=1.0)

    def wait(pause_s: float) -> bool:
        pauses.append(pause_s)
        return len(pauses) > 22

    monkeypatch.setattr(cost._closed, "wait", wait)
    cost._run()
    assert tried == 21
    assert pauses[0] <= 1.0
    assert LONGEST_PAUSE_S / 2 <= pauses[19] <= LONGEST_PAUSE_S
    assert pauses[20:] == [1.0, 1.0, 1.0]
