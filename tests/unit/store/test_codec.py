"""Definitions as they are kept."""

from __future__ import annotations

import json

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
)


@pytest.mark.parametrize("given", [spec(), spec(sync=None), EVERYTHING, spec(arguments=("x" * 9999, "ü"))])
def test_a_definition_is_read_back_as_it_was_given(given: JobSpec) -> None:
    assert decode_spec(encode_spec(given)) == given


def test_what_is_left_out_keeps_meaning_what_it_meant() -> None:
    """The defaults are part of what is kept: one that changes needs a new schema version."""
    kept = b'{"command":"c","container_group_id":"g","sync":{}}'
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
    )
    assert decode_spec(kept) == meant
    assert json.loads(encode_spec(meant)) == json.loads(kept)


def test_long_definitions_are_deflated() -> None:
    assert len(encode_spec(spec(arguments=("--same-option",) * 500))) < 500


def test_the_size_of_a_definition_is_bounded() -> None:
    with pytest.raises(InvalidInputError, match=str(MAX_SPEC_BYTES)):
        encode_spec(spec(arguments=("x" * MAX_SPEC_BYTES,)))
