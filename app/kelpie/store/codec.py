"""Between what Redis holds (bytes) and plain data. The fields are described in keys.py."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kelpie.errors import InvalidInputError
from kelpie.job import (
    MAX_STDERR_CHARS,
    Attempt,
    CommandEnd,
    Job,
    JobSpec,
    JobStatus,
    Outcome,
)
from kelpie.store.records import Event, EventType, Queue

MAX_SPEC_BYTES = 1024 * 1024
"""The JSON of one definition, at most."""

MAX_PRIORITY = 255
_PRIORITY_STEP = 2**44  # of a job's place; see lua/prelude.lua

MAX_REASON_CHARS = 2000
"""Of the reason of a failure, in words."""

_RAW_DEFLATE = -15
_PACKED = b"\x01"  # what a packed definition begins with; JSON begins with {
_DICTIONARY = (
    b'"labels":{"priority":,"retry_backoff_s":,"not_before":"","max_runtime_s":,"compression":true,'
    b'"webhook":"https://","heartbeat_interval":,"max_failures":,"environment":{"input_bucket":"'
    b'","input_prefix":"","checkpoint_bucket":"","checkpoint_prefix":"","output_bucket":"","output_prefix":"'
    b'{"command":"/bin/bash","arguments":["-c","python3","--seed","--steps","'
    b'"],"sync":{"before":[{"bucket":"","prefix":"input/","local_path":"/input","direction":"download"}],'
    b'"during":[{"bucket":"","prefix":"checkpoints/","local_path":"/checkpoint","direction":"upload"}],'
    b'"after":[{"bucket":"","prefix":"output/","local_path":"/output","direction":"upload","pattern":"'
    b'{"command":"true","arguments":["--'
    b'"],"sync":{}}'
)
"""What definitions have in common, so that even a short one packs well. Part of the layout: never changed."""

_UNTOLD = JobSpec(command="", container_group_id="").to_wire()


def encode_spec(spec: JobSpec) -> bytes:
    """A definition as JSON, or packed where that is smaller. Raises InvalidInputError.

    What has its default value is left out, and so is the container group, which its queue tells: a small job
    is small in memory too.
    """
    told = {name: value for name, value in spec.to_wire().items() if value != _UNTOLD.get(name)}
    told.pop("container_group_id", None)
    try:
        plain = json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidInputError("The job holds text that is not Unicode (a lone surrogate).") from None
    if len(plain) > MAX_SPEC_BYTES:
        raise InvalidInputError(
            f"The job's definition takes {len(plain)} bytes as JSON; the limit is {MAX_SPEC_BYTES}."
        )
    packer = zlib.compressobj(9, wbits=_RAW_DEFLATE, zdict=_DICTIONARY)
    packed = _PACKED + packer.compress(plain) + packer.flush()
    return min(plain, packed, key=len)


def decode_spec(data: bytes, container_group_id: str) -> JobSpec:
    """The reverse of :func:`encode_spec`, for a job of that queue."""
    plain = data
    if data.startswith(_PACKED):
        plain = zlib.decompressobj(_RAW_DEFLATE, zdict=_DICTIONARY).decompress(data[len(_PACKED) :])
    return JobSpec.from_wire(json.loads(plain) | {"container_group_id": container_group_id})


Fields = Mapping[str, str]

Entries = Sequence[tuple[Any, Any]]
"""Entries of a stream as redis-py gives them: id and fields."""


def text(value: bytes | str) -> str:
    """What a client that does not decode answers with, as text."""
    return value.decode() if isinstance(value, bytes) else value


def names(members: Sequence[Any]) -> list[str]:
    """The members of a sorted set, read without their scores, as text."""
    return [text(member) for member in members]


def fields_of(raw: Mapping[Any, Any] | Sequence[bytes]) -> Fields:
    """A hash with text instead of bytes; from a mapping, or from a flat list as scripts return it."""
    pairs = raw.items() if isinstance(raw, Mapping) else zip(raw[::2], raw[1::2], strict=True)
    return {text(name): text(value) for name, value in pairs}


def decode_job(job_id: str, queue: Queue, fields: Fields, spec: bytes) -> Job:
    """A job of a queue from its hash and its definition; its place tells its priority, which may change."""
    defined = decode_spec(spec, queue.container_group_id)
    priority = MAX_PRIORITY - int(fields["place"]) // _PRIORITY_STEP
    return Job(
        id=job_id,
        user_id=queue.user_id,
        spec=defined if defined.priority == priority else replace(defined, priority=priority),
        status=JobStatus(fields.get("status", JobStatus.PENDING)),
        created=int(fields["order"]) // 1000,
        started=_time(fields, "started"),
        completed=_time(fields, "completed"),
        canceled=_time(fields, "canceled"),
        failed=_time(fields, "failed"),
        heartbeat=_time(fields, "heartbeat"),
        num_failures=int(fields.get("failures", 0)),
        num_heartbeats=int(fields.get("heartbeats", 0)),
        machine_id=fields.get("node"),
        attempt=int(fields.get("attempt", 0)),
        held=fields.get("attempt_state") == "held",
        on_hold="hold" in fields,
        due=_time(fields, "due"),
        banned_nodes=tuple(fields["bans"].split("\n")) if "bans" in fields else (),
    )


def encode_details(exit_code: int | None, reason: str | None, end: CommandEnd) -> str:
    """What a report tells of the end of an attempt, as finish.lua takes it; empty when it tells nothing."""
    told = {
        "exit_code": exit_code,
        "reason": _unicode((reason or "")[:MAX_REASON_CHARS]),
        "signal": end.signal,
        "out_of_memory": end.out_of_memory or None,
        "stderr_tail": _unicode((end.stderr_tail or "")[-MAX_STDERR_CHARS:]),
    }
    known = {name: value for name, value in told.items() if value not in (None, "")}
    return json.dumps(known, separators=(",", ":"), ensure_ascii=False) if known else ""


def decode_attempt(record: bytes) -> Attempt:
    """A closed attempt from its record."""
    values: dict[str, Any] = json.loads(record)
    return Attempt(
        attempt=int(values["attempt"]),
        node=values["node"],
        start=int(values["start"]),
        end=int(values["end"]),
        outcome=Outcome(values["outcome"]),
        exit_code=_whole(values, "exit_code"),
        reason=values.get("reason"),
        last_heartbeat=_whole(values, "last_heartbeat"),
        command_end=CommandEnd(
            signal=_whole(values, "signal"),
            out_of_memory=values.get("out_of_memory", False),
            stderr_tail=values.get("stderr_tail"),
        ),
    )


def _whole(values: Mapping[str, Any], name: str) -> int | None:
    return int(values[name]) if name in values else None  # Lua writes some whole numbers as 1.8e12


def open_attempt(fields: Fields) -> Attempt | None:
    """The attempt that a job's hash says is open; one whose lease expired reads as interrupted."""
    state = fields.get("attempt_state")
    if state is None:
        return None
    return Attempt(
        attempt=int(fields["attempt"]),
        node=fields["node"],
        start=int(fields["attempt_started"]),
        end=_time(fields, "expired"),
        outcome=Outcome.INTERRUPTED if state == "expired" else None,
        last_heartbeat=_time(fields, "heartbeat"),
    )


def decode_event(event_id: bytes | str, raw: Mapping[Any, Any]) -> Event:
    """An event from its entry in the stream, as prelude.lua writes it.

    Raises ValueError for one that this version does not know.
    """
    kind, job_id, attempt, status, time, node = fields_of(raw).get("event", "").split("\n")
    return Event(
        id=text(event_id),
        type=EventType(kind),
        job_id=job_id,
        attempt=int(attempt),
        node=node or None,
        status=JobStatus(status),
        time=int(time),
    )


def _unicode(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def decode_events(entries: Entries) -> list[Event]:
    """Entries as events. Without those of a later version that this one does not know."""
    found = []
    for event_id, raw in entries:
        if event_id is None or not raw:
            continue
        try:
            found.append(decode_event(event_id, raw))
        except ValueError:
            continue
    return found


def _time(fields: Fields, name: str) -> int | None:
    value = fields.get(name)
    return None if value is None else int(value)
