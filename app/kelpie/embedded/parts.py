"""The Kelpie processes of a platform on one machine, as servers that its guard starts and stops."""

from __future__ import annotations

import os
import signal
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from kelpie.embedded.processes import LOOPBACK, Server

NODE_MARKER = "KELPIE_EMBEDDED_NODE"
"""Names the node in the environment of its worker, and of every process that its commands start."""

_NO_METADATA_SERVICE = f"http://{LOOPBACK}:9"
"""Refused at once. This machine may have a metadata service; its nodes are not its own."""

_OURS = ("KELPIE_", "SALAD_", "AWS_")


def clean_environment() -> dict[str, str]:
    """The environment without what would steer a Kelpie process or an S3 client elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}


def kelpie(*arguments: str) -> list[str]:
    """The argv of a ``kelpie`` subcommand in this Python."""
    return [sys.executable, "-m", "kelpie.cli", *arguments]


class KelpieProcess(Server):
    """A process of ours: steered by what it is given, not by the environment that `kelpie up` runs in."""

    @property
    def base_environment(self) -> Mapping[str, str]:
        """Without what would steer it elsewhere."""
        return clean_environment()


class Api(KelpieProcess):
    """``kelpie api``."""

    name = "api"

    def __init__(self, directory: Path, *, log: Path, port: int, environment: Mapping[str, str]) -> None:
        super().__init__(directory, log=log)
        self.port = port
        self.environment = environment

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{LOOPBACK}:{self.port}"

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        """Two processes: one more core for requests while the other one is busy."""
        return kelpie("api", "--bind", f"{LOOPBACK}:{self.port}", "--workers", "2"), dict(self.environment)

    def is_ready(self) -> bool:
        """It answers and reaches the broker."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2):  # noqa: S310 -- our own http URL
                return True
        except OSError:
            return False


class PlatformProcess(KelpieProcess):
    """``kelpie platform``."""

    name = "platform"

    def __init__(self, directory: Path, *, log: Path, environment: Mapping[str, str]) -> None:
        super().__init__(directory, log=log)
        self.environment = environment

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        """It needs no options."""
        return kelpie("platform"), dict(self.environment)

    def is_ready(self) -> bool:
        """Nobody waits for it: it works behind the scenes."""
        return self.running


class Node(KelpieProcess):
    """``kelpie worker`` with folders of its own: what one machine of a fleet is."""

    stop_grace_s = 30.0

    def __init__(
        self, directory: Path, *, name: str, log: Path, queue: str, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        super().__init__(directory / "work", log=log)
        self.temporary = directory / "tmp"
        self.queue = queue
        self.environment = environment

    @property
    def marker(self) -> str:
        """What every process of this node carries in its environment."""
        return f"{NODE_MARKER}={self.name}"

    @property
    def state_file(self) -> Path:
        """Which jobs it has (kelpie_worker.state)."""
        return self.directory.parent / "state.json"

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        """Jobs see its working directory, its legacy folders and its temporary folder, not another node's.

        A machine may have no program called ``python``, as Debian has not: they find ours then.
        """
        self.temporary.mkdir(parents=True, exist_ok=True)
        home = self.directory.parent
        folders = {
            "KELPIE_STATE_FILE": str(self.state_file),
            "KELPIE_TEMP_DIR": str(self.temporary),
            "TMPDIR": str(self.temporary),
            "INPUT_DIR": str(home / "input"),
            "OUTPUT_DIR": str(home / "output"),
            "CHECKPOINT_DIR": str(home / "checkpoint"),
            "PATH": os.pathsep.join((os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent))),
        }
        alone = {
            "KELPIE_IMDS_URL": _NO_METADATA_SERVICE,
            "KELPIE_NOTICES": "none",
            "KELPIE_DELETION_COST": "false",
        }
        identity = {NODE_MARKER: self.name, **alone}
        argv = kelpie("worker", "--queue", self.queue, "--machine-id", self.name)
        return argv, {**folders, **self.environment, **identity}

    def retire(self) -> None:
        """Have it end as soon as it has no job; until then it finishes what it has, and takes no other."""
        if self.process is not None and self.running:
            self.process.send_signal(signal.SIGUSR1)

    def is_ready(self) -> bool:
        """It asks for work by itself."""
        return self.running
