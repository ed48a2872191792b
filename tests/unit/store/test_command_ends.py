"""What is kept of how a command ended."""

from __future__ import annotations

import pytest

from kelpie.job import MAX_STDERR_CHARS, CommandEnd, Outcome
from tests.unit.store.conftest import StoreUnderTest, holder_of


@pytest.mark.parametrize(
    ("reason", "end"),
    [
        ("exit code 1", CommandEnd()),
        (None, CommandEnd()),
        ("killed by signal 9", CommandEnd(signal=9, out_of_memory=True)),
        (None, CommandEnd(stderr_tail="é\x00\x1e{\n")),
        ("x", CommandEnd(15, False, "Traceback:\n  File\nKeyError: 'a'")),
    ],
)
def test_the_end_of_a_command_is_kept_with_its_attempt(
    sut: StoreUnderTest, reason: str | None, end: CommandEnd
) -> None:
    job = sut.submit_one()
    lease = sut.lease()
    for _ in range(2):  # the answer to the first may have been lost
        sut.store.finish(job.id, holder_of(lease), Outcome.APP_FAILED, reason=reason, end=end)
    (attempt,) = sut.store.attempts(job.id)
    assert (attempt.reason, attempt.command_end) == (reason, end)


def test_what_is_kept_is_bounded_and_the_last_of_it(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    tail = "a" * MAX_STDERR_CHARS + "\ud800the end"
    sut.store.finish(
        job.id,
        holder_of(sut.lease()),
        Outcome.APP_FAILED,
        reason="r" * 9999,
        end=CommandEnd(stderr_tail=tail),
    )
    (attempt,) = sut.store.attempts(job.id)
    assert attempt.reason == "r" * 2000
    assert attempt.command_end.stderr_tail == tail[-MAX_STDERR_CHARS:].replace("\ud800", "?")
