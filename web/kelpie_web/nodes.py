"""The nodes: what each does, from which jobs it is banned, and how it is replaced."""

from __future__ import annotations

from collections import Counter

from flask import Response, request
from werkzeug.wrappers import Response as BaseResponse

from kelpie.errors import ConflictError, InvalidInputError, NotFoundError
from kelpie.http.audit import note
from kelpie.http.context import own_container_group, services
from kelpie.store import Filter, NodeState
from kelpie_web.jobs import command_line
from kelpie_web.ui import back, form, owner, page, ui

MAX_ROWS = 500
SHOWN_JOBS = 100
MAX_NAME_CHARS = 128


@ui.get("/nodes")
def nodes() -> Response:
    """The nodes that asked for jobs of the caller's queues within a day, or have one."""
    group = request.args.get("group", "").strip() or None
    state = request.args.get("state", "")
    store = services().store
    found = store.nodes(owner(), group)
    shown = [node for node in found if not state or node.state == state]
    return page(
        "nodes.html",
        nodes=shown[:MAX_ROWS],
        hidden=max(0, len(shown) - MAX_ROWS),
        states=Counter(node.state for node in found),
        banned=sum(1 for node in found if node.bans),
        drained={(one.queue.number, one.node) for one in store.drained_nodes(owner())},
        group=group,
        state=state,
        all_states=list(NodeState),
    )


@ui.get("/nodes/<path:name>")
def node(name: str) -> Response:
    """One node: where it works, and the newest jobs that it was given."""
    store = services().store
    if not 1 <= len(name) <= MAX_NAME_CHARS:
        raise NotFoundError("There is no such node.")
    places = [one for one in store.nodes(owner()) if one.name == name]
    given = store.search(owner(), Filter(node=name), size=SHOWN_JOBS).jobs
    if not places and not given:
        raise NotFoundError(f"No node called {name!r} has asked for your jobs within a day.")
    return page(
        "node.html",
        name=name,
        places=places,
        drained={one.queue.number for one in store.drained_nodes(owner()) if one.node == name},
        given=given,
        banned=[job for job in given if name in job.banned_nodes],
        command_line=command_line,
    )


@ui.post("/nodes/drain")
def drain() -> BaseResponse:
    """Give a node no further job, and have it hand back what it runs; or end that."""
    fields = form()
    name, group_id = fields.get("node", ""), fields.get("group") or None
    if fields.get("do") == "resume":
        services().store.undrain(owner(), name, group_id)
        note("let a drained node have jobs again", name)
        return back("ui.node", f"{name} gets jobs again.", name=name)
    services().store.drain(owner(), name, group_id)
    note("drain a node", name)
    return back("ui.node", f"{name} gets no further job, and hands back what it runs.", name=name)


@ui.post("/nodes/reallocate")
def reallocate() -> BaseResponse:
    """Have the provider put another machine in the place of a node."""
    fields = form()
    name, group_id = fields.get("node", ""), fields.get("group", "")
    if not 1 <= len(name) <= MAX_NAME_CHARS:
        raise InvalidInputError("node: name the node that is to be replaced.")
    group = own_container_group(group_id)
    if group is None:
        raise ConflictError(
            f"The provider knows no container group {group_id[:64]!r} of yours: stop the node where it runs."
        )
    services().provider.reallocate(group, name)
    note("reallocate a node", f"{name} of {group_id}")
    return back("ui.nodes", f"{name} is to be replaced by another machine.")
