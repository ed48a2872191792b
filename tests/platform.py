"""The platform as a process."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

from kelpie.embedded.processes import Server


class PlatformProcess(Server):
    """`kelpie platform`."""

    name = "platform"

    def __init__(self, redis_url: str, directory: Path, **settings: str) -> None:
        super().__init__(directory)
        self.redis_url = redis_url
        self.settings = settings

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        environment = {"KELPIE_REDIS_URL": self.redis_url, "KELPIE_WEBHOOK_ALLOW_PRIVATE": "true"}
        return [sys.executable, "-m", "kelpie.cli", "platform"], environment | self.settings

    def is_ready(self) -> bool:
        return self.log.exists() and "platform is running" in self.log.read_text()

    def family(self) -> list[psutil.Process]:
        """The process and everything that it has started."""
        process = psutil.Process(self.pid)
        return [process, *process.children(recursive=True)]
