"""What clients may send about scaling rules and container groups."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from kelpie.http.models import WHOLE, Body, MachineId, Name, Query
from kelpie.scaling import MAX_IDLE_THRESHOLD_S, MAX_REPLICAS, MAX_SLOTS
from kelpie.store.groups import MAX_REPORTED_NODES
from kelpie.store.rules import MAX_DECISIONS

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def as_uuid(value: str) -> str:
    """The id of a container group in the form that it is kept in. Raises ValueError for another form."""
    lowered = value.lower()
    if not _UUID.fullmatch(lowered):
        raise ValueError("it must be a UUID, such as 0c6b4b6e-2f4a-4c57-9d0e-5b8a2b6f1d3c")
    return lowered


GroupUuid = Annotated[
    str,
    Field(max_length=36, description="A UUID. Also names the queue.", json_schema_extra={"format": "uuid"}),
    AfterValidator(as_uuid),
]
Replicas = Annotated[int, Field(ge=0, le=MAX_REPLICAS), WHOLE]
IdleThreshold = Annotated[
    int,
    Field(ge=0, le=MAX_IDLE_THRESHOLD_S, description="How long a finished job still counts, in seconds."),
    WHOLE,
]


class ScalingRuleBody(Body):
    """A scaling rule to be made."""

    container_group_id: GroupUuid
    min_replicas: Replicas
    max_replicas: Replicas
    idle_threshold_seconds: IdleThreshold

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas must not be above max_replicas")
        return self


class ScalingRulePatch(Body):
    """What of a scaling rule is to change: one of these keys or more."""

    min_replicas: Replicas | None = None
    max_replicas: Replicas | None = None
    idle_threshold_seconds: IdleThreshold | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.min_replicas is self.max_replicas is self.idle_threshold_seconds is None:
            raise ValueError("give min_replicas, max_replicas or idle_threshold_seconds")
        return self


class DecisionsQuery(Query):
    """How many decisions are listed."""

    limit: Annotated[int, Field(ge=1, le=MAX_DECISIONS)] = 50


class ContainerGroupBody(Body):
    """A container group of the local provider."""

    name: Name
    organization: Name
    project: Name
    slots: Annotated[
        int | None,
        Field(ge=1, le=MAX_SLOTS, description="Jobs that one replica runs at once; 1 by default."),
        WHOLE,
    ] = None


class NodesBody(Body):
    """Which nodes a host runs for a container group."""

    nodes: Annotated[list[MachineId], Field(max_length=MAX_REPORTED_NODES)]
