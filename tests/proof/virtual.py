"""The real scripts on the real server, in a world whose time and randomness the test owns.

What a script asks of the server's clock is answered from the key ``virtual:clock``: TIME, how long a key
still lives, the ids of stream entries. What it publishes is kept in a list. The scripts are not changed for
it: a few lines in front of them stand between them and ``redis.call``.
"""

from __future__ import annotations

import hashlib
import random
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ResponseError
from redis.retry import Retry

from kelpie.store import scripts
from kelpie.store.scripts import Script, Scripts

START_MS = 1_800_000_000_000
ANSWER_TIMEOUT_S = 20.0  # also on a busy machine

CLOCK = "virtual:clock"
ENDS = "virtual:ends"
"""When each key with a lifetime ends, in ms of the virtual clock."""

PREAMBLE = """
local server = redis
local redis = setmetatable({}, {__index = server})
local UNKNOWN = {PEXPIREAT = 1, EXPIREAT = 1, TTL = 1, SETEX = 1, PSETEX = 1}
function redis.call(command, key, ...)
  if command == 'TIME' then
    local ms = tonumber(server.call('GET', 'virtual:clock'))
    return {string.format('%.0f', math.floor(ms / 1000)), string.format('%.0f', ms % 1000 * 1000)}
  elseif command == 'SET' then
    local value, option, ms = ...
    if option == nil then return server.call('SET', key, value) end
    if option ~= 'PX' then error('the virtual world knows no SET ' .. option) end
    server.call('ZADD', 'virtual:ends', string.format('%.0f', server.call('GET', 'virtual:clock') + ms), key)
    return server.call('SET', key, value)
  elseif command == 'PTTL' then
    local ends = server.call('ZSCORE', 'virtual:ends', key)
    if server.call('EXISTS', key) == 0 then return -2 end
    return ends and ends - server.call('GET', 'virtual:clock') or -1
  elseif command == 'PEXPIRE' or command == 'EXPIRE' then
    local ms = ...
    if command == 'EXPIRE' then ms = ms * 1000 end
    if server.call('EXISTS', key) == 0 then return 0 end
    server.call('ZADD', 'virtual:ends', string.format('%.0f', server.call('GET', 'virtual:clock') + ms), key)
    return 1
  elseif command == 'DEL' or command == 'UNLINK' then
    server.call('ZREM', 'virtual:ends', key, ...)
  elseif command == 'XADD' then
    local arguments = {...}
    for i = 1, 4 do
      if arguments[i] == '*' then
        arguments[i] = server.call('INCR', 'virtual:entries') .. '-0'
        return server.call('XADD', key, unpack(arguments))
      end
    end
  elseif command == 'PUBLISH' then
    return server.call('RPUSH', 'virtual:' .. key, ...)
  elseif UNKNOWN[command] then
    error('the virtual world knows no ' .. command)
  end
  if key == nil then return server.call(command) end
  return server.call(command, key, ...)
end
"""

MOVE_CLOCK = """
redis.call('SET', 'virtual:clock', ARGV[1])
local gone = redis.call('ZRANGEBYSCORE', 'virtual:ends', '-inf', ARGV[1])
for _, key in ipairs(gone) do redis.call('DEL', key) end
redis.call('ZREMRANGEBYSCORE', 'virtual:ends', '-inf', ARGV[1])
return #gone
"""


class Client(redis.Redis):
    """A client that sends a script again as often as it is told, as one does that loses the first replies."""

    sends = 1

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._moves: list[int] = []

    def move_clock(self, now: int) -> None:
        """The virtual clock shows ``now`` when the next command runs; both go in one round trip."""
        self._moves.append(now)

    def reconnect(self) -> None:
        """The server was started again."""
        if self.connection is not None:
            self.connection.disconnect()
        self.connection_pool.disconnect()

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """The last answer. A refusal is an answer."""
        if args[0] not in ("EVALSHA", "EVAL"):
            self._flush_moves()
            return super().execute_command(*args, **options)
        if self.sends == 1:
            return self._with_moves(*args) if self._moves else super().execute_command(*args, **options)
        self._flush_moves()
        for _ in range(self.sends - 1):
            try:
                super().execute_command(*args, **options)
            except NoScriptError:
                raise
            except ResponseError:
                continue
        return super().execute_command(*args, **options)

    def _with_moves(self, *args: Any) -> Any:
        together = self.pipeline(transaction=False)
        for now in self._moves:
            together.execute_command("EVAL", MOVE_CLOCK, 0, now)
        self._moves.clear()
        together.execute_command(*args)
        answer = together.execute(raise_on_error=False)[-1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _flush_moves(self) -> None:
        while self._moves:
            super().execute_command("EVAL", MOVE_CLOCK, 0, self._moves.pop(0))


def make_client(url: str, *, answer_timeout_s: float = ANSWER_TIMEOUT_S) -> Client:
    """One connection, which repeats nothing by itself."""
    # redis-py's from_url has no type of its own for a subclass.
    client: Client = Client.from_url(
        url,
        single_connection_client=True,
        protocol=2,
        socket_timeout=answer_timeout_s,
        retry=Retry(NoBackoff(), 0),
    )
    return client


class VirtualScripts(Scripts):
    """The scripts of the product, or mutants of them, in the virtual world."""

    def __init__(self, client: redis.Redis, mutated: Mapping[str, str] | None = None) -> None:
        """``mutated``: other texts of script files, by name."""
        super().__init__(client)
        self._mutated = dict(mutated or {})
        self._loaded: dict[str, Script] = {}

    def _load(self, name: str) -> Script:
        known = self._loaded.get(name)
        if known is None:
            known = self._loaded[name] = virtual(name, self._mutated)
        return known


def virtual(name: str, mutated: Mapping[str, str] | None = None) -> Script:
    """A script as it runs in the virtual world."""
    read = scripts.read_lua
    with patch.object(scripts, "read_lua", lambda file: (mutated or {}).get(file) or read(file)):
        script: Script = scripts.load.__wrapped__(name)
    flags, _, code = script.source.partition("\n")
    source = f"{flags}\n{PREAMBLE}{code}"
    return replace(
        script, source=source, sha=hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    )


@contextmanager
def seeded(source: random.Random) -> Iterator[None]:
    """All that the product draws at random comes from ``source``, so that a run can be repeated exactly."""

    def token_hex(size: int = 32) -> str:
        return source.randbytes(size).hex()

    names: Sequence[tuple[str, Any]] = (
        ("randbits", source.getrandbits),
        ("token_hex", token_hex),
        ("token_bytes", source.randbytes),
        ("token_urlsafe", token_hex),
    )
    patches = [patch.object(secrets, name, value) for name, value in names]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()
