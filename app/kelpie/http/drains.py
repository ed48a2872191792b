"""``/nodes``: keep jobs away from a node, and have it hand back what it runs."""

from __future__ import annotations

from typing import Annotated, Any

from flask import Blueprint, g
from pydantic import Field

from kelpie.http.auth import authenticate
from kelpie.http.context import scope, services
from kelpie.http.models import Body, GroupId, MachineId
from kelpie.http.openapi import NODES, replies, spec
from kelpie.http.replies import ErrorReply, Reply, Time
from kelpie.job import iso
from kelpie.store import DrainedNode

Answer = Any  # whatever Flask makes a response of

drains = Blueprint("drains", __name__, url_prefix="/nodes")
drains.before_request(authenticate)


class NodeBody(Body):
    """Which node is meant."""

    machine_id: MachineId
    container_group_id: Annotated[
        GroupId | None, Field(description="Only in this queue; absent: in all where it asked for work.")
    ] = None


class DrainedNodeReply(Reply):
    """A node that is to be empty."""

    machine_id: str
    container_group_id: str
    since: Time


class DrainedNodesReply(Reply):
    """Nodes that are to be empty; one entry per queue."""

    nodes: list[DrainedNodeReply]


class ResumedReply(Reply):
    """A node that gets jobs again."""

    container_group_ids: Annotated[list[str], Field(description="Where it was drained.")]


@drains.post("/drain")
@spec.validate(
    resp=replies(HTTP_200=DrainedNodesReply, HTTP_404=ErrorReply), tags=[NODES], operation_id="drainNode"
)
def drain(json: NodeBody) -> Answer:
    """Give a node no further job. What it runs ends as at a stop: its last checkpoint is stored, and the job
    goes to another node at once, uncounted. A worker of Kelpie 0.5 to 0.7 finishes its job first."""
    g.target = json.machine_id
    found = services().store.drain(scope(), json.machine_id, json.container_group_id)
    return {"nodes": [_wire(one) for one in found]}


@drains.post("/resume")
@spec.validate(resp=replies(HTTP_200=ResumedReply), tags=[NODES], operation_id="resumeNode")
def resume(json: NodeBody) -> Answer:
    """Let a drained node have jobs again; harmless when repeated."""
    g.target = json.machine_id
    queues = services().store.undrain(scope(), json.machine_id, json.container_group_id)
    return {"container_group_ids": [queue.container_group_id for queue in queues]}


@drains.get("/drained")
@spec.validate(resp=replies(HTTP_200=DrainedNodesReply), tags=[NODES], operation_id="listDrainedNodes")
def listing() -> Answer:
    """The nodes that are to be empty; the admin sees all users'."""
    return {"nodes": [_wire(one) for one in services().store.drained_nodes(scope())]}


def _wire(one: DrainedNode) -> dict[str, Any]:
    return {
        "machine_id": one.node,
        "container_group_id": one.queue.container_group_id,
        "since": iso(one.since),
    }
