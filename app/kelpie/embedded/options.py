"""What a platform on one machine is told, and what it tells: plain data for its guard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

DEFAULT_QUEUE = "default"
DEFAULT_BUCKET = "kelpie"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to run a platform. ``port`` 0: any free one."""

    data: str  # the folder that everything is kept in, absolute
    port: int = 8080
    nodes: int = 2
    queue: str = DEFAULT_QUEUE  # the one that the nodes serve
    node_restart_s: float = 1.0  # how long a node that died stays away, in seconds
    node_environment: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """For the guard's command line: it holds no secret."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The reverse of :meth:`to_json`."""
        return cls(**json.loads(text))


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
    ``stopping``, ``stopped``, ``failed`` (it could not start). ``data`` holds name, pid and so on.
    """

    kind: str
    data: Mapping[str, Any]
