from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from kelpie_worker.deletion_cost import MAX_DELETION_COST, STEP, DeletionCost
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
