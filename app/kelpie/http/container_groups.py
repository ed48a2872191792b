"""``/container-groups``: the local provider's groups, registered by the admin and run by their hosts."""

from __future__ import annotations

from typing import Any

from flask import Blueprint

from kelpie.errors import InvalidInputError
from kelpie.http.auth import admin_only, authenticate
from kelpie.http.context import principal, services
from kelpie.http.openapi import SCALING, replies, spec
from kelpie.http.replies import ErrorReply
from kelpie.http.scaling_models import ContainerGroupBody, NodesBody, as_uuid
from kelpie.http.scaling_replies import ContainerGroupListReply, ContainerGroupReply, HostReply
from kelpie.scaling import RegisteredGroup
from kelpie.store.groups import no_such_group

Answer = Any  # whatever Flask makes a response of

container_groups = Blueprint("container_groups", __name__, url_prefix="/container-groups")
container_groups.before_request(authenticate)


@container_groups.put("/<group_id>")
@admin_only
@spec.validate(
    resp=replies(HTTP_200=ContainerGroupReply, HTTP_201=ContainerGroupReply, HTTP_400=ErrorReply),
    tags=[SCALING],
    operation_id="putContainerGroup",
)
def put(group_id: str, json: ContainerGroupBody) -> Answer:
    """Register a container group, or rename it (admin). 201 when it is new; it is stopped at first."""
    try:
        group_id = as_uuid(group_id)
    except ValueError as error:
        raise InvalidInputError(f"id: {error}", errors=(("id", str(error)),)) from None
    groups = services().store.groups
    is_new = groups.put(group_id, json.name, json.organization, json.project, slots=json.slots or 1)
    return groups.get(group_id).to_wire(), 201 if is_new else 200


@container_groups.get("")
@spec.validate(
    resp=replies(HTTP_200=ContainerGroupListReply), tags=[SCALING], operation_id="listContainerGroups"
)
def list_all() -> Answer:
    """The container groups of the caller's organization and project; the admin sees all."""
    found = [group for group in services().store.groups.list() if _is_visible(group)]
    return {"_count": len(found), "container_groups": [group.to_wire() for group in found]}


@container_groups.get("/<group_id>")
@spec.validate(
    resp=replies(HTTP_200=ContainerGroupReply, HTTP_404=ErrorReply),
    tags=[SCALING],
    operation_id="getContainerGroup",
)
def get(group_id: str) -> Answer:
    """A container group: what its host is to run, and what it runs."""
    group = services().store.groups.get(group_id.lower())
    if not _is_visible(group):
        raise no_such_group(group_id)
    return group.to_wire()


@container_groups.delete("/<group_id>")
@admin_only
@spec.validate(
    resp=replies(HTTP_204=None, HTTP_404=ErrorReply), tags=[SCALING], operation_id="deleteContainerGroup"
)
def delete(group_id: str) -> Answer:
    """Forget a container group (admin). Its scaling rule ends when it is next evaluated; its jobs stay."""
    services().store.groups.delete(group_id.lower())
    return "", 204


@container_groups.put("/<group_id>/nodes")
@admin_only
@spec.validate(
    resp=replies(HTTP_200=HostReply, HTTP_400=ErrorReply, HTTP_404=ErrorReply),
    tags=[SCALING],
    operation_id="reportNodes",
)
def report(group_id: str, json: NodesBody) -> Answer:
    """What the host of a container group calls once a second: which nodes it runs, and how many it is to run
    (admin)."""
    found, reallocate = services().store.groups.report(group_id.lower(), json.nodes)
    group = found.group
    return {"state": group.state.value, "replicas": group.running_replicas, "reallocate": reallocate}


def _is_visible(found: RegisteredGroup) -> bool:
    caller, group = principal(), found.group
    return caller.is_admin or (caller.org_name, caller.project_name) == (group.organization, group.project)
