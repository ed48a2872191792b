"""How each kind of fault is done to its target, and undone."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import psutil

from kelpie.embedded.processes import Server
from tests.proof.faults.link import Way
from tests.proof.faults.machine import Machine
from tests.proof.faults.schedule import CONTROL, STORE, Fault, Kind
from tests.proof.faults.site import Servers
from tests.waiting import wait_until

_SLOW_BYTES_PER_S = 300_000
_SLOW_DISK_S = 0.03
_MOMENT_TIMEOUT_S = 3.0
_COMMAND_TIMEOUT_S = 5.0

_BEGINS: Mapping[str, str] = {
    "downloading": "job leased",
    "running": "command started",
    "draining": "command ended",
    "leasing": "job completed",
}
"""What a worker logs when the state begins. Finalizing begins after a drain of moments."""


def strike_node(machine: Machine, fault: Fault) -> bool:
    """Do it, hold it, undo it; whether there was anything to strike."""
    machine.tend()
    return _ON_NODES[fault.kind](machine, fault)


def strike_server(servers: Servers, target: str, fault: Fault) -> bool:
    """The same to a server."""
    assert target in {CONTROL, STORE}
    return _ON_SERVERS[fault.kind](servers, fault)


def _aim(machine: Machine, fault: Fault) -> None:
    """Wait for the fault's moment, or for long enough that this node does not come to it."""
    begins = _BEGINS.get("draining" if fault.moment == "finalizing" else fault.moment)
    if begins is not None:
        machine.wait_for(begins, _MOMENT_TIMEOUT_S)
    time.sleep(fault.delay_s)


def _aim_at_transfers(machine: Machine, fault: Fault) -> None:
    """The same, with transfers that last."""
    machine.store.bytes_per_s = _SLOW_BYTES_PER_S if fault.amid_transfers else None
    _aim(machine, fault)


def _kill_worker(machine: Machine, fault: Fault) -> bool:
    _aim_at_transfers(machine, fault)
    machine.kill()
    machine.store.bytes_per_s = None
    time.sleep(fault.hold_s)
    machine.start()
    return True


def _lose_machine(machine: Machine, fault: Fault) -> bool:
    _aim_at_transfers(machine, fault)
    machine.replace()
    machine.store.bytes_per_s = None
    return True


def _term_worker(machine: Machine, fault: Fault) -> bool:
    _aim(machine, fault)
    machine.terminate()
    machine.start()
    return True


def _kill_command(machine: Machine, fault: Fault) -> bool:
    return _kill_process(machine, guardian=False)


def _kill_guardian(machine: Machine, fault: Fault) -> bool:
    return _kill_process(machine, guardian=True)


def _kill_process(machine: Machine, *, guardian: bool) -> bool:
    try:
        found = wait_until(machine.command, "a command runs", timeout_s=_COMMAND_TIMEOUT_S)
    except AssertionError:
        return False
    assert found is not None  # a true value is what was waited for
    job, attempt, pid = found
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        # Noted before: the worker reports it at once.
        victim = psutil.Process(pid).ppid() if guardian else pid
        if not guardian:
            machine.killed_commands.add((job, attempt))
        assert machine.process is not None
        if victim in {1, os.getpid(), machine.process.pid}:
            return False
        os.kill(victim, signal.SIGKILL)
        return True
    return False


def _stop(machine: Machine, fault: Fault, *, everything: bool) -> bool:
    _aim(machine, fault)
    if not machine.signal(signal.SIGSTOP, everything=everything):
        return False
    time.sleep(fault.hold_s)
    machine.signal(signal.SIGCONT, everything=True)
    return True


def _cut(*links: str) -> Callable[[Machine, Fault], bool]:
    def cut(machine: Machine, fault: Fault) -> bool:
        _aim(machine, fault)
        ways = [getattr(machine, link) for link in links]
        for each in ways:
            each.set(Way.SILENT if fault.silent else Way.CUT)
        time.sleep(fault.hold_s)
        for each in ways:
            each.set(Way.OPEN)
        return True

    return cut


def _slow_store(machine: Machine, fault: Fault) -> bool:
    machine.store.bytes_per_s = _SLOW_BYTES_PER_S
    time.sleep(fault.hold_s)
    machine.store.bytes_per_s = None
    return True


def _slow_disk(machine: Machine, fault: Fault) -> bool:
    machine.steering.slow_disk(_SLOW_DISK_S)
    time.sleep(fault.hold_s)
    machine.steering.slow_disk(0)
    return True


def _full_disk(machine: Machine, fault: Fault) -> bool:
    _aim(machine, fault)
    machine.ids_with_full_disk.add(machine.id)
    machine.disk.fill()
    time.sleep(fault.hold_s)
    machine.disk.make_room()
    return True


def _clock_jump(machine: Machine, fault: Fault) -> bool:
    _aim(machine, fault)
    machine.steering.jump(fault.amount)
    time.sleep(fault.hold_s)
    machine.steering.jump(0)  # back again: a jump as well
    return True


def _suspend(machine: Machine, fault: Fault) -> bool:
    _aim(machine, fault)
    machine.steering.suspend(abs(fault.amount))
    return True


_ON_NODES: Mapping[Kind, Callable[[Machine, Fault], bool]] = {
    Kind.KILL_WORKER: _kill_worker,
    Kind.LOSE_MACHINE: _lose_machine,
    Kind.KILL_COMMAND: _kill_command,
    Kind.KILL_GUARDIAN: _kill_guardian,
    Kind.TERM_WORKER: _term_worker,
    Kind.STOP_WORKER: lambda machine, fault: _stop(machine, fault, everything=False),
    Kind.FREEZE_MACHINE: lambda machine, fault: _stop(machine, fault, everything=True),
    Kind.CUT_API: _cut("api"),
    Kind.CUT_STORE: _cut("store"),
    Kind.CUT_BOTH: _cut("api", "store"),
    Kind.SLOW_STORE: _slow_store,
    Kind.SLOW_DISK: _slow_disk,
    Kind.FULL_DISK: _full_disk,
    Kind.CLOCK_JUMP: _clock_jump,
    Kind.SUSPEND: _suspend,
}


def _kill_server(servers: Servers, server: Server, fault: Fault) -> bool:
    server.kill()
    time.sleep(fault.hold_s)
    servers.restart(server)
    return True


def _kill_api_worker(servers: Servers, fault: Fault) -> bool:
    """Gunicorn starts another one in its place."""
    workers = psutil.Process(servers.api.pid).children(recursive=True)
    if not workers:
        return False
    workers[-1].kill()
    return True


@contextmanager
def _stopped(server: Server) -> Iterator[None]:
    family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(number)
        if number == signal.SIGSTOP:
            yield


def _stop_server(server: Server, fault: Fault) -> bool:
    with _stopped(server):
        time.sleep(fault.hold_s)
    return True


_ON_SERVERS: Mapping[Kind, Callable[[Servers, Fault], bool]] = {
    Kind.KILL_API: lambda servers, fault: _kill_server(servers, servers.api, fault),
    Kind.KILL_API_WORKER: _kill_api_worker,
    Kind.STOP_API: lambda servers, fault: _stop_server(servers.api, fault),
    Kind.KILL_BROKER: lambda servers, fault: _kill_server(servers, servers.broker, fault),
    Kind.STOP_BROKER: lambda servers, fault: _stop_server(servers.broker, fault),
    Kind.KILL_STORE: lambda servers, fault: _kill_server(servers, servers.s3, fault),
    Kind.STOP_STORE: lambda servers, fault: _stop_server(servers.s3, fault),
}
