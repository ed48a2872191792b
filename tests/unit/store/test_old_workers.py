"""Workers that know no leases and show a user's key: they look like their user, who may report by hand."""

from __future__ import annotations

import pytest

from kelpie.errors import LeaseLostError
from kelpie.job import JobStatus, Outcome
from tests.unit.store.conftest import StoreUnderTest, old_holder_of


@pytest.mark.parametrize("outcome", [Outcome.COMPLETED, Outcome.APP_FAILED])
def test_an_earlier_attempt_cannot_pass_for_its_user_while_nobody_holds_the_job(
    sut: StoreUnderTest, outcome: Outcome
) -> None:
    job = sut.submit_one()
    first = sut.lease("node-1")
    sut.expire(first)
    second = sut.lease("node-2")
    sut.expire(second)
    before = sut.state()
    with pytest.raises(LeaseLostError) as error:
        sut.store.finish(job.id, old_holder_of(first), outcome)
    assert error.value.reason == "superseded"
    assert sut.state() == before
    # The last one may: nobody has taken the job from it.
    assert sut.store.finish(job.id, old_holder_of(second), Outcome.COMPLETED).status is JobStatus.COMPLETED
