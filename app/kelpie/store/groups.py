"""Container groups of the local provider: what the admin registered, what is wanted, what their hosts run."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence

import redis

from kelpie.errors import InvalidInputError, NotFoundError
from kelpie.scaling import MAX_SLOTS, ContainerGroup, GroupState, RegisteredGroup
from kelpie.store import keys
from kelpie.store.clock import wall_ms
from kelpie.store.codec import Fields, fields_of, names, text
from kelpie.store.connection import translated
from kelpie.store.names import checked
from kelpie.store.scripts import Scripts

MAX_REPORTED_NODES = 5000
MAX_REALLOCATIONS = 1000
SILENT_AFTER_MS = 15_000
"""A host that has not reported for so long may be gone: nobody knows how many nodes there are."""


class Groups:
    """The local provider's own record. Wanted is written by the autoscaler, current by the host."""

    def __init__(self, client: redis.Redis, scripts: Scripts, clock: Callable[[], int] = wall_ms) -> None:
        self._client = client
        self._scripts = scripts
        self._clock = clock

    def put(self, group_id: str, name: str, organization: str, project: str, *, slots: int = 1) -> bool:
        """Registers a group, stopped at first, or renames it; True: it is new. Raises InvalidInputError."""
        for field, value in (("name", name), ("organization", organization), ("project", project)):
            checked(field, value)
        if not 1 <= slots <= MAX_SLOTS:
            problem = f"must be 1…{MAX_SLOTS}"
            raise InvalidInputError(f"slots is {slots}; it {problem}.", errors=(("slots", problem),))
        is_new = self._scripts.run(
            "put_group",
            (keys.group(group_id), keys.GROUPS),
            id=group_id,
            name=name,
            organization=organization,
            project=project,
            slots=slots,
            time=self._clock(),
        )
        return bool(is_new)

    def get(self, group_id: str) -> RegisteredGroup:
        """A group. Raises NotFoundError."""
        with translated():
            fields = fields_of(self._client.hgetall(keys.group(group_id)))
        if not fields:
            raise no_such_group(group_id)
        return self._decode(group_id, fields)

    def list(self) -> builtins.list[RegisteredGroup]:
        """Every group, the oldest first."""
        with translated():
            ids = names(self._client.zrange(keys.GROUPS, 0, -1))
            reading = self._client.pipeline(transaction=False)
            for group_id in ids:
                reading.hgetall(keys.group(group_id))
            found = [fields_of(raw) for raw in reading.execute()]
        return [self._decode(group_id, fields) for group_id, fields in zip(ids, found, strict=True) if fields]

    def delete(self, group_id: str) -> None:
        """Forgets a group; its jobs stay. Raises NotFoundError."""
        with translated():
            ending = self._client.pipeline(transaction=True)
            ending.delete(keys.group(group_id))
            ending.zrem(keys.GROUPS, group_id)
            ending.delete(keys.reallocations(group_id))
            gone = ending.execute()[0]
        if not gone:
            raise no_such_group(group_id)

    def scale(self, group_id: str, *, replicas: int | None = None, state: GroupState | None = None) -> None:
        """Says what the host of a group is to run (None: as it is). Raises NotFoundError."""
        try:
            self._scripts.run(
                "scale_group",
                (keys.group(group_id),),
                id=group_id,
                replicas="" if replicas is None else replicas,
                state="" if state is None else state.value,
            )
        except NotFoundError:
            raise no_such_group(group_id) from None

    def reallocate(self, group_id: str, node: str) -> bool:
        """Asks the host to put another node in the place of ``node``; False when too many wait for that.

        Raises NotFoundError.
        """
        try:
            asked = self._scripts.run(
                "reallocate_node",
                (keys.group(group_id), keys.reallocations(group_id)),
                id=group_id,
                node=checked("node", node),
                limit=MAX_REALLOCATIONS,
            )
        except NotFoundError:
            raise no_such_group(group_id) from None
        return bool(asked)

    def report(self, group_id: str, nodes: Sequence[str]) -> tuple[RegisteredGroup, builtins.list[str]]:
        """Notes which nodes the host runs; what it is to run, and which of its nodes it is to replace.

        Raises NotFoundError, and InvalidInputError for too many nodes.
        """
        if len(nodes) > MAX_REPORTED_NODES:
            problem = f"must be {MAX_REPORTED_NODES} or fewer"
            raise InvalidInputError(f"nodes are {len(nodes)}; they {problem}.", errors=(("nodes", problem),))
        try:
            raw, replace = self._scripts.run(
                "report_nodes",
                (keys.group(group_id), keys.reallocations(group_id)),
                id=group_id,
                time=self._clock(),
                nodes=[(node,) for node in sorted(set(nodes))],
            )
        except NotFoundError:
            raise no_such_group(group_id) from None
        return self._decode(group_id, fields_of(raw)), sorted(text(node) for node in replace)

    def _decode(self, group_id: str, fields: Fields) -> RegisteredGroup:
        silent_ms = self._clock() - int(fields.get("reported", 0))
        group = ContainerGroup(
            id=group_id,
            name=fields["name"],
            organization=fields["organization"],
            project=fields["project"],
            slots=int(fields["slots"]),
            state=GroupState(fields["state"]),
            replicas=int(fields["replicas"]),
            current=int(fields["current"]) if silent_ms < SILENT_AFTER_MS else None,
        )
        return RegisteredGroup(group, int(fields["created"]), int(fields["updated"]))


def no_such_group(group_id: str) -> NotFoundError:
    """What is raised for a container group that does not exist, or not for this caller."""
    return NotFoundError(f"There is no container group {group_id[:64]!r}.")
