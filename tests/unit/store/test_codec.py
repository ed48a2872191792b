"""Definitions as they are kept."""

from __future__ import annotations

import pytest

from kelpie.errors import InvalidInputError
from kelpie.job import JobSpec, LegacySync, Sync
from kelpie.store.codec import MAX_SPEC_BYTES, decode_spec, encode_spec
from tests.factories import spec

EVERYTHING = JobSpec(
    command="c",
    container_group_id="g",
    arguments=("a",),
    environment={"E": ""},
    max_failures=4,
    heartbeat_interval=31,
    webhook="https://example.org",
    webhook_events=("canceled",),
    compression=True,
    legacy=LegacySync("a", "b/", "c", "d/", "e", "f/"),
    priority=1,
    labels={"l": "1"},
    max_runtime_s=3600,
    not_before=1_800_000_000_123,
    retry_backoff_s=30,
)


@pytest.mark.parametrize("given", [spec(), spec(sync=None), EVERYTHING, spec(arguments=("x" * 9999, "ü"))])
def test_a_definition_is_read_back_as_it_was_given(given: JobSpec) -> None:
    assert decode_spec(encode_spec(given), given.container_group_id) == given


def test_what_is_left_out_keeps_meaning_what_it_meant() -> None:
    """The defaults are part of what is kept: one that changes needs a new schema version."""
    kept = b'{"command":"c","sync":{}}'
    packed = bytes.fromhex("0143560e0a7fb80400")
    meant = JobSpec(
        command="c",
        container_group_id="g",
        arguments=(),
        environment={},
        max_failures=3,
        heartbeat_interval=30,
        webhook=None,
        webhook_events=None,
        compression=False,
        sync=Sync(),
        legacy=None,
        priority=0,
        labels={},
        max_runtime_s=None,
        not_before=None,
        retry_backoff_s=0,
    )
    assert decode_spec(kept, "g") == meant
    assert encode_spec(meant) == packed
    assert decode_spec(packed, "g") == meant


def test_long_definitions_are_deflated() -> None:
    assert len(encode_spec(spec(arguments=("--same-option",) * 500))) < 500


def test_the_size_of_a_definition_is_bounded() -> None:
    with pytest.raises(InvalidInputError, match=str(MAX_SPEC_BYTES)):
        encode_spec(spec(arguments=("x" * MAX_SPEC_BYTES,)))
