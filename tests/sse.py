"""A client of Server-Sent Events that sees exactly what is on the wire."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import urllib3

from tests.api import ApiUser
from tests.waiting import wait_until


@dataclass(frozen=True)
class Block:
    """What stands between two blank lines."""

    id: str | None = None
    event: str | None = None
    data: Any = None
    comment: str | None = None
    retry: str | None = None


@dataclass
class Stream:
    """One open event stream, read in a thread of its own."""

    user: ApiUser
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Stream:
        headers = {"X-Kelpie-Key": self.user.key, "Accept": "text/event-stream"} | self.headers
        self._pool = urllib3.PoolManager(retries=False)
        self.reply = self._pool.request(
            "GET", self.user.url + self.path, headers=headers, preload_content=False, timeout=60
        )
        assert self.reply.status == 200, self.reply.data
        assert self.reply.headers["Content-Type"].startswith("text/event-stream")
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        wait_until(lambda: any(block.id for block in self.blocks), "the stream has begun")
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(RuntimeError, ValueError):  # it has ended already
            self.reply.shutdown()
        self._thread.join()
        self.reply.close()
        self._pool.clear()

    def _read(self) -> None:
        lines: list[str] = []
        try:
            for line in _lines(self.reply):
                if line:
                    lines.append(line)
                elif lines:
                    self.blocks.append(_block(lines))
                    lines = []
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError):
            pass  # closed by this test, or cut off by the server
        finally:
            self.ended.set()

    @property
    def events(self) -> list[Block]:
        """The blocks that are events."""
        return [block for block in self.blocks if block.event is not None]

    @property
    def last_id(self) -> str:
        """Where a client would resume."""
        return [block.id for block in self.blocks if block.id is not None][-1]

    def hear(self, count: int) -> list[Block]:
        """The first ``count`` events."""
        wait_until(lambda: len(self.events) >= count, f"{count} events on {self.path}")
        return self.events[:count]


def _lines(reply: urllib3.BaseHTTPResponse) -> Any:
    rest = b""
    for piece in reply.stream(4096):
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line.decode() for line in lines)


def _block(lines: list[str]) -> Block:
    values: dict[str, Any] = {}
    for line in lines:
        name, _, value = line.partition(":")
        values[name or "comment"] = value.removeprefix(" ")
    if "data" in values:
        values["data"] = json.loads(values["data"])
    return Block(**values)
