"""Loads the Lua scripts, encodes their arguments, and turns their refusals into exceptions.

The header of a script is its signature: callers give every argument by the name that the header gives it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import redis
from redis.exceptions import NoScriptError, ResponseError

from kelpie.errors import ConflictError, KelpieError, LeaseLostError, NotFoundError, UnavailableError
from kelpie.store.cluster import ClusterClient
from kelpie.store.connection import is_cluster, translated

PRELUDE = "prelude"

WAIT_TIMEOUT_MS = 1000
"""How long replicas are waited for."""

QUEUE_SCRIPTS = (
    "submit",
    "lease",
    "heartbeat",
    "finish",
    "append_log",
    "cancel",
    "hold",
    "resume",
    "requeue",
    "unban",
    "prioritize",
    "purge",
    "clear",
    "purge_queue",
    "expire",
    "reap",
)
"""Scripts about one queue: the prelude is prepended, KEYS is its meta key, ARGV[1] its number."""

PLAIN_SCRIPTS = (
    "register_queue",
    "create_user",
    "ensure_organization",
    "create_key",
    "touch_key",
    "revoke_key",
    "delete_user",
    "read_job_events",
    "rotate_webhook_secret",
    "create_rule",
    "update_rule",
    "delete_rule",
    "record_decision",
    "put_group",
    "scale_group",
    "reallocate_node",
    "report_nodes",
    "take_lock",
    "free_lock",
    "report_process",
    "share_spending",
)

DELIVERY_PRELUDE = "deliveries_prelude"

DELIVERY_SCRIPTS = (
    "put_delivery",
    "claim_deliveries",
    "begin_delivery",
    "finish_delivery",
    "replay_delivery",
    "forget_deliveries",
)
"""Scripts about webhook deliveries: their own prelude is prepended, KEYS is the key of the users' turns."""

NOT_WHEN_FULL = frozenset({"submit", "append_log"})
"""Refused once Redis has reached its maxmemory. All others may run then, so that jobs can go on and end."""

LEASE_LOST = {
    "superseded": "a later attempt exists",
    "canceled": "the job was canceled",
    "completed": "the job was completed",
    "failed": "the job has failed",
    "not_holder": "another node holds the job, or nobody does",
    "closed": "this attempt has already reported another outcome",
}
"""Every reason of :class:`LeaseLostError`, in words."""

Argument = str | bytes | int | Sequence[Sequence[str | bytes | int]]


@dataclass(frozen=True)
class Script:
    """One script as it is sent to the server."""

    name: str
    source: str
    sha: str
    keys: tuple[str, ...]
    arguments: tuple[str, ...]  # a last name that ends in … takes a sequence of rows

    def encode(self, arguments: Mapping[str, Argument]) -> list[str | bytes | int]:
        """The arguments in the script's order. Raises TypeError for a missing, surplus or None one."""
        if set(arguments) != {name.removesuffix("…") for name in self.arguments}:
            raise TypeError(f"{self.name}.lua takes {', '.join(self.arguments)}, not {', '.join(arguments)}")
        encoded: list[str | bytes | int] = []
        for name in self.arguments:
            value = arguments[name.removesuffix("…")]
            if isinstance(value, str | bytes | int):
                encoded.append(value)
            elif name.endswith("…"):
                encoded.extend(item for row in value for item in row)
            else:
                raise TypeError(f"{self.name}.lua: {name} is {value!r}")
        if any(value is None for value in encoded):
            raise TypeError(f"{self.name}.lua: an argument is None")
        return encoded


def read_lua(name: str) -> str:
    """The text of a script file."""
    return resources.files("kelpie.store").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


def header_names(text: str, section: str) -> tuple[str, ...]:
    """The names that a script's header lists under KEYS or ARGV, in order; ``name…`` takes many values."""
    block = re.search(rf"^-- {section}\n((?:--   .*\n)+)", text, re.MULTILINE)
    if block is None:
        return ()
    entries = re.findall(r"^--   (\d+)(…?)\s+(\w+)", block[1], re.MULTILINE)
    if [int(number) for number, _, _ in entries] != list(range(1, len(entries) + 1)):
        raise ValueError(f"the numbers under {section} do not count up from 1")
    return tuple(name + many for _, many, name in entries)


@cache
def load(name: str, *, shebang: bool = True, virtual_clock: bool = False) -> Script:
    """A script by its file name.

    ``shebang=False`` leaves out the flags line, for servers that cannot parse it. ``virtual_clock`` makes the
    scripts of a queue read their time from its key ``virtual_clock`` (in ms) where that exists.
    """
    body = read_lua(name)
    lines = []
    if shebang:
        lines.append("#!lua\n" if name in NOT_WHEN_FULL else "#!lua flags=allow-oom\n")
    if name in QUEUE_SCRIPTS:
        lines.append(f"local VIRTUAL_CLOCK = {'true' if virtual_clock else 'false'}\n")
        lines.append(read_lua(PRELUDE))
    if name in DELIVERY_SCRIPTS:
        lines.append(read_lua(DELIVERY_PRELUDE))
    source = "".join((*lines, body))
    return Script(
        name=name,
        source=source,
        sha=hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest(),
        keys=header_names(body, "KEYS"),
        arguments=header_names(body, "ARGV"),
    )


class Scripts:
    """Runs scripts on one server. All of them are idempotent, so the client may send them again."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        shebang: bool = True,
        virtual_clock: bool = False,
        wait_replicas: int = 0,
    ) -> None:
        self._client = client
        self._shebang = shebang
        self._virtual_clock = virtual_clock
        self._wait_replicas = wait_replicas

    def _load(self, name: str) -> Script:
        return load(name, shebang=self._shebang, virtual_clock=self._virtual_clock)

    @property
    def can_run_together(self) -> bool:
        """Whether :meth:`run_together` can: the queues of a cluster are on several servers."""
        return not is_cluster(self._client)

    def run(self, name: str, keys: Sequence[str], /, **arguments: Argument) -> Any:
        """The answer of one script. Raises its refusal, or UnavailableError."""
        script = self._load(name)
        self._check_keys(script, keys)
        encoded = (len(keys), *keys, *script.encode(arguments))
        with translated(), _refusals():
            try:
                return self._ask(keys[0], "EVALSHA", script.sha, *encoded)
            except NoScriptError:
                return self._ask(keys[0], "EVAL", script.source, *encoded)

    def _ask(self, key: str, *command: str | bytes | int) -> Any:
        if not self._wait_replicas:
            return self._send(*command)
        answer, acknowledged = self._on_one_connection(key, command, self._wait)
        if isinstance(answer, Exception):
            raise answer
        if answer:  # else nothing was changed that anybody is told of
            self._check_replicas(acknowledged)
        return answer

    def _send(self, *command: str | bytes | int) -> Any:
        client: Any = self._client  # redis-py leaves this without types
        return client.execute_command(*command)

    @property
    def _wait(self) -> tuple[str | int, ...]:
        return ("WAIT", self._wait_replicas, WAIT_TIMEOUT_MS)

    def _on_one_connection(self, key: str, *commands: tuple[str | bytes | int, ...]) -> list[Any]:
        """Their answers, errors included: WAIT waits for what its own connection has written."""
        if isinstance(self._client, ClusterClient):
            return self._client.run_on_node_of(key, *commands)
        sending = self._client.pipeline(transaction=False)
        for command in commands:
            sending.pipeline_execute_command(*command)
        return sending.execute(raise_on_error=False)

    def _check_replicas(self, acknowledged: Any) -> None:
        if isinstance(acknowledged, Exception):
            raise acknowledged
        if acknowledged < self._wait_replicas:
            raise UnavailableError(
                f"{acknowledged} of {self._wait_replicas} replicas have confirmed this in time "
                "(KELPIE_WAIT_REPLICAS); it may have happened, and can be sent again."
            )

    def run_together(
        self, name: str, calls: Sequence[tuple[Sequence[str], Mapping[str, Argument]]]
    ) -> list[Any]:
        """The answers of several calls of one script that run as one transaction: all or none.

        Not on a cluster; see :attr:`can_run_together`.
        """
        script = self._load(name)
        commands: list[tuple[str | bytes | int, ...]] = []
        for keys, arguments in calls:
            self._check_keys(script, keys)
            commands.append(("EVALSHA", script.sha, len(keys), *keys, *script.encode(arguments)))
        with translated(), _refusals():
            self._client.script_load(script.source)  # a missing script would break the transaction
            if not self._wait_replicas:
                transaction = self._client.pipeline(transaction=True)
                for command in commands:
                    transaction.pipeline_execute_command(*command)
                return transaction.execute()
            # By hand, because WAIT must follow on the same connection, and would not wait inside.
            *_, answers, acknowledged = self._on_one_connection(
                calls[0][0][0], ("MULTI",), *commands, ("EXEC",), self._wait
            )
            for answer in answers if isinstance(answers, list) else [answers]:
                if isinstance(answer, Exception):
                    raise answer
            self._check_replicas(acknowledged)
            return list(answers)

    @staticmethod
    def _check_keys(script: Script, keys: Sequence[str]) -> None:
        if len(keys) != len(script.keys):
            raise TypeError(f"{script.name}.lua takes the keys {', '.join(script.keys)}")


class _refusals:  # noqa: N801 - used like a function
    """Turns ``redis.error_reply("WORD detail")`` into the exception of that word."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, ResponseError):
            refusal = refusal_of(str(error))
            if refusal is not None:
                raise refusal from None


def refusal_of(text: str) -> KelpieError | None:
    """The exception that a script's refusal stands for; None when the text is not a refusal."""
    word, _, detail = text.partition(" ")
    detail = detail.strip()
    if word == "NOTFOUND":
        return NotFoundError(f"There is no {detail}.")
    if word == "CONFLICT":
        return ConflictError(f"It is {detail} already.")
    if word == "NEWER":
        return UnavailableError(
            f"This process knows the layout of version {detail} in Redis, which a newer Kelpie has changed; "
            "upgrade it."
        )
    if word == "LEASELOST" and detail in LEASE_LOST:
        return LeaseLostError(f"The lease is lost: {LEASE_LOST[detail]}.", reason=detail)
    return None
