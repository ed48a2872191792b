"""Starting, waiting for, and ending child processes of which nothing may stay behind."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from kelpie.errors import StartupError

LOOPBACK = "127.0.0.1"
_LAUNCHER = str(Path(__file__).with_name("launcher.py"))
_POLL_S = 0.02
_FIRST_PORT = 10_240  # well-known servers live below
_LOG_TAIL_BYTES = 2000


def spawn(
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    new_session: bool = True,
) -> subprocess.Popen[bytes]:
    """Start ``argv`` so that it dies with this process; both of its outputs are appended to ``log``.

    A session of its own keeps the terminal's Ctrl-C away: its end is our decision. ``env`` None: ours.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", _LAUNCHER, str(os.getpid()), *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=None if env is None else dict(env),
            cwd=cwd,
            start_new_session=new_session,
        )


def free_ports(count: int) -> list[int]:
    """Distinct TCP ports of the loopback that nobody listens on at this moment, chosen at random.

    From outside the range that the kernel gives to outgoing connections, which would otherwise take one of
    them before its server listens, or while its server is down.
    """
    low, high = _outgoing_ports()
    choice = [port for port in range(_FIRST_PORT, 65536) if not low <= port <= high]
    found: list[int] = []
    for port in random.sample(choice, len(choice)):
        if len(found) == count:
            return found
        if is_free(port):
            found.append(port)
    raise StartupError(f"no {count} free TCP ports on {LOOPBACK}")


def _outgoing_ports() -> tuple[int, int]:
    """The range of net.ipv4.ip_local_port_range; Linux's default when it cannot be read."""
    try:
        low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
        return int(low), int(high)
    except (OSError, ValueError):
        return 32768, 60999


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen on this TCP port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def terminate(process: subprocess.Popen[bytes], *, grace_s: float) -> None:
    """SIGTERM, up to ``grace_s`` seconds to end, SIGKILL. Returns when the process is gone."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def tail(log: Path) -> str:
    """The end of a log file, for an error message."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
            return file.read().decode(errors="replace").strip()
    except OSError:
        return ""


class Server(ABC):
    """A server on the loopback with its data in one folder: start, stop, kill, and start again as it was.

    Usable as a context manager. Start it from a thread that lives long (see launcher.py).
    """

    name: str
    stop_grace_s: float = 10.0
    start_timeout_s: float = 60.0

    def __init__(self, directory: Path | str, *, log: Path | None = None) -> None:
        self.directory = Path(directory).resolve()
        self.log = log or self.directory / f"{self.name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def prepare(self) -> tuple[list[str], dict[str, str]]:
        """Write the configuration; the program's argv and what to add to its environment."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it serves requests now. Called repeatedly while it starts; never raises."""

    @property
    def pid(self) -> int:
        """The process id. RuntimeError unless it was started."""
        if self.process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether the process exists."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> Self:
        """Start it and wait until it serves. StartupError with the end of its log otherwise."""
        self.launch()
        self.wait_ready()
        return self

    @property
    def base_environment(self) -> Mapping[str, str]:
        """What the process inherits; what ``prepare`` gives is laid over it."""
        return os.environ

    def launch(self) -> None:
        """Start the process without waiting for it."""
        if self.running:
            raise RuntimeError(f"{self.name} is running already")
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        argv, env = self.prepare()
        self.process = spawn(argv, log=self.log, env={**self.base_environment, **env}, cwd=self.directory)

    def wait_ready(self, check: Callable[[], None] = lambda: None) -> None:
        """Wait until it serves. StartupError if it ended, or takes longer than ``start_timeout_s``.

        ``check`` is called now and then and may raise to give up waiting.
        """
        deadline = time.monotonic() + self.start_timeout_s
        while not self.is_ready():
            check()
            if not self.running:
                raise StartupError(f"{self.name} did not start; its log {self.log} ends:\n{tail(self.log)}")
            if time.monotonic() > deadline:
                self.kill()
                raise StartupError(
                    f"{self.name} does not answer after {self.start_timeout_s:g} s; see its log {self.log}"
                )
            time.sleep(_POLL_S)

    def stop(self, *, grace_s: float | None = None) -> None:
        """End it in good order, within ``stop_grace_s`` unless told otherwise. Harmless when not running."""
        if self.process is not None:
            terminate(self.process, grace_s=self.stop_grace_s if grace_s is None else grace_s)
            self.process = None
        self.cleanup()

    def kill(self) -> None:
        """SIGKILL, as a crash would. Harmless when it is not running; ``start`` brings it back."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        self.cleanup()

    def cleanup(self) -> None:
        """Remove what the program leaves outside its folder. Nothing, usually."""
        return

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
