"""What clients get about scaling rules and container groups."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field

from kelpie.http.replies import Reply, Time
from kelpie.scaling import Action, GroupState


class ScalingRuleReply(Reply):
    """A scaling rule."""

    id: Annotated[UUID, Field(description="The id of its container group: there is one rule per group.")]
    user_id: Annotated[UUID, Field(description="Whose jobs count.")]
    org_name: str
    project_name: str
    container_group_id: UUID
    container_group_name: str
    min_replicas: int
    max_replicas: int
    idle_threshold_seconds: Annotated[int, Field(description="How long a finished job still counts.")]
    created: Time
    updated: Time


class ScalingRuleListReply(Reply):
    """Scaling rules, the oldest first."""

    count: Annotated[int, Field(alias="_count")]
    rules: list[ScalingRuleReply]


class DecisionReply(Reply):
    """What a scaling rule asks for, and the numbers behind it."""

    action: Action
    reason: str
    waiting: Annotated[int, Field(description="Jobs that a node may have now.")]
    leased: Annotated[int, Field(description="Jobs that are on a node.")]
    finished: Annotated[int, Field(description="Jobs that ended on a node within the idle threshold.")]
    eligible: Annotated[int, Field(description="The sum of these three.")]
    slots: Annotated[int | None, Field(description="Jobs that one replica runs at once.")]
    state: GroupState | None
    replicas: Annotated[int | None, Field(description="How many the provider was asked to run before.")]
    current: Annotated[int | None, Field(description="How many there were; null: nobody had said so lately.")]
    wanted: Annotated[int | None, Field(description="How many are needed; null: it could not be decided.")]
    min_replicas: int
    max_replicas: int


class KeptDecisionReply(DecisionReply):
    """A decision that was made."""

    time: Annotated[Time, Field(description="When it was first made.")]
    last: Annotated[Time, Field(description="When it was last made again without another in between.")]
    count: Annotated[int, Field(description="How often it was made in a row.")]


class DecisionListReply(Reply):
    """Decisions, the newest first."""

    count: Annotated[int, Field(alias="_count")]
    decisions: list[KeptDecisionReply]


class ContainerGroupReply(Reply):
    """A container group of the local provider."""

    id: UUID
    name: str
    organization: str
    project: str
    slots: Annotated[int, Field(description="Jobs that one replica runs at once.")]
    state: GroupState
    replicas: Annotated[int, Field(description="How many its host is to run while it is running.")]
    current_replicas: Annotated[
        int | None, Field(description="How many its host runs; null: it has not said so lately.")
    ]
    created: Time
    updated: Time


class ContainerGroupListReply(Reply):
    """Container groups, the oldest first."""

    count: Annotated[int, Field(alias="_count")]
    container_groups: list[ContainerGroupReply]


class HostReply(Reply):
    """What the host of a container group is to do."""

    state: GroupState
    replicas: Annotated[int, Field(description="Nodes that it is to run now; 0 while it is stopped.")]
    reallocate: Annotated[list[str], Field(description="Nodes that it is to replace by others.")]
