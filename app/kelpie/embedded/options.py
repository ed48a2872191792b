"""What a platform on one machine is told, and what it tells: plain data for its guard."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

DEFAULT_QUEUE = "default"
SCALED_QUEUE = str(uuid.uuid5(uuid.NAMESPACE_DNS, "kelpie-up"))
"""The queue of nodes that come and go, unless another one is named: container groups have UUIDs."""
DEFAULT_MAX_NODES = 4
DEFAULT_BUCKET = "kelpie"


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoscale:
    """How many nodes there may be when the queue decides that."""

    min_nodes: int = 0
    max_nodes: int = DEFAULT_MAX_NODES
    idle_threshold_s: int = 5  # how long a finished job still counts, in seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to run a platform. ``port`` 0: any free one."""

    data: str  # the folder that everything is kept in, absolute
    port: int = 8080
    nodes: int = 2
    autoscale: Autoscale | None = None  # then ``nodes`` are not counted, and the queue's name is a UUID
    queue: str = DEFAULT_QUEUE  # the one that the nodes serve
    node_restart_s: float = 1.0  # how long a node that died stays away, in seconds
    node_environment: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """For the guard's command line: it holds no secret."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The reverse of :meth:`to_json`."""
        values = json.loads(text)
        if values.get("autoscale") is not None:
            values["autoscale"] = Autoscale(**values["autoscale"])
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A platform that serves: where it is and how to get in. ``key`` and ``s3_secret_key`` are secrets."""

    url: str
    key: str  # of the user whose queue the nodes serve
    admin_key: str
    queue: str
    s3_endpoint: str
    s3_access_key: str
    s3_secret_key: str
    s3_region: str
    bucket: str
    nodes: Mapping[str, int]  # name -> process id of its worker


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to the platform.

    ``kind``: ``starting``, ``ready``, ``exited`` (a part died by itself), ``started`` (it is back),
    ``joined`` and ``left`` (a node, as the queue needs them), ``stopping``, ``stopped``, ``failed`` (it could
    not start). ``data`` holds name, pid and so on.
    """

    kind: str
    data: Mapping[str, Any]
