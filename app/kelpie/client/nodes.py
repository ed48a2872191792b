"""The client's part about nodes."""

from __future__ import annotations

from typing import Any

from kelpie.client.transport import Transport


class NodeCalls(Transport):
    """Mixed into :class:`kelpie.Client`."""

    def drain(self, node: str, *, queue: str | None = None) -> list[dict[str, Any]]:
        """Give a node no further job and have it hand back what it runs; where, and since when.

        In the queues where it asked for work in the last day, or in ``queue``. NotFoundError when there is
        none.
        """
        body = {"machine_id": node, "container_group_id": queue}
        nodes: list[dict[str, Any]] = self._call("POST", "/nodes/drain", body=body, repeatable=True)["nodes"]
        return nodes

    def undrain(self, node: str, *, queue: str | None = None) -> list[str]:
        """Let a drained node have jobs again; the queues in which it was drained."""
        body = {"machine_id": node, "container_group_id": queue}
        answer = self._call("POST", "/nodes/resume", body=body, repeatable=True)
        queues: list[str] = answer["container_group_ids"]
        return queues

    def drained(self) -> list[dict[str, Any]]:
        """The drained nodes, one entry per queue: ``machine_id``, ``container_group_id``, ``since``."""
        nodes: list[dict[str, Any]] = self._call("GET", "/nodes/drained")["nodes"]
        return nodes
