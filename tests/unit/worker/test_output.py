from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kelpie_worker.output import Output, PassThrough
from kelpie_worker.process import Command, Exit
from tests.waiting import wait_until


class Collected:
    """A sink that remembers how much came and what came last."""

    def __init__(self) -> None:
        self.bytes = {"stdout": 0, "stderr": 0}
        self.data = {"stdout": b"", "stderr": b""}

    def __call__(self, stream: str, data: bytes) -> None:
        self.bytes[stream] += len(data)
        self.data[stream] = (self.data[stream] + data)[-1000:]


def run(script: str, *sinks: object) -> tuple[Exit, Output]:
    output = Output(*sinks)  # type: ignore[arg-type]
    command = Command(
        ["sh", "-c", script],
        dict(os.environ),
        on_exit=lambda: None,
        stdout=output.stdout,
        stderr=output.stderr,
    )
    output.started()
    command.exited.wait()
    command.end(1, threading.Event())
    end = command.reap()
    output.finish(30)
    return end, output


def test_both_pipes_filled_to_the_brim_block_nothing() -> None:
    sink = Collected()
    end, _ = run("head -c 3000000 /dev/zero >&2; head -c 2000000 /dev/zero; exit 3", sink)
    assert end.code == 3
    assert sink.bytes == {"stdout": 2_000_000, "stderr": 3_000_000}


def test_a_gigabyte_of_short_lines_passes_in_bounded_memory() -> None:
    script = (
        "import os, resource, sys\n"
        "from tests.unit.worker.test_output import Collected, run\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "sink = Collected()\n"
        "end, output = run('yes | head -c 1000000000 >&2', sink)\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "lines = output.stderr_tail.split('\\n')\n"
        "print(end.code, sink.bytes['stderr'], lines == ['y'] * 50, grown < 20_000)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "0 1000000000 True True\n"


def test_a_sink_that_fails_costs_only_what_it_should_have_taken() -> None:
    def broken(stream: str, data: bytes) -> None:
        raise RuntimeError

    sink = Collected()
    run("head -c 500000 /dev/zero", broken, sink)
    assert sink.bytes["stdout"] == 500_000


@pytest.mark.parametrize(
    ("script", "tail"),
    [
        ("seq 100 >&2", "\n".join(map(str, range(51, 101)))),
        ("printf 'a\\n\\nb\\r\\nc' >&2", "a\nb\nc"),
        ("printf '10%%\\r20%%\\r30%%' >&2", "10%\n20%\n30%"),
        ("printf '\\377\\376x' >&2", "\ufffd\ufffdx"),
        ("head -c 100000 /dev/zero | tr '\\0' z >&2", "z" * 1000),
        ("echo out", None),
    ],
)
def test_the_last_lines_of_stderr_are_kept(script: str, tail: str | None) -> None:
    assert run(script)[1].stderr_tail == tail


def test_a_pipe_that_nobody_can_close_is_not_waited_for() -> None:
    output = Output()
    held = os.dup(output.stdout)
    output.started()
    output.finish(0.05)
    assert any(reader.is_alive() for reader in output._readers)
    os.close(held)
    wait_until(lambda: not any(reader.is_alive() for reader in output._readers), "the end of the pipes")


def test_a_reader_that_stopped_reading_stops_nobody_and_a_slow_one_loses_nothing() -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    through = PassThrough(write)
    through.write(b"x" * 1_000_000)  # nobody reads: returns all the same
    held = len(os.read(read, 1 << 20))
    assert 4096 <= held < 1_000_000
    assert os.get_blocking(write)  # the descriptor that others share is as it was

    got = bytearray()

    def slowly() -> None:
        while data := os.read(read, 1000):
            got.extend(data)

    reader = threading.Thread(target=slowly)
    reader.start()
    sent = os.urandom(300_000)
    through.write(sent)
    os.close(write)
    os.close(through._descriptor)
    reader.join()
    os.close(read)
    assert bytes(got) == sent


def test_a_reader_that_has_gone_and_a_disk_that_is_full_stop_nobody(tmp_path: Path) -> None:
    read, write = os.pipe()
    through = PassThrough(write)
    os.close(read)
    through.write(b"x" * 100_000)
    with Path("/dev/full").open("wb", buffering=0) as full:
        PassThrough(full.fileno()).write(b"x")
    with (tmp_path / "log").open("ab", buffering=0) as file:
        PassThrough(file.fileno()).write(b"to a file")
    assert (tmp_path / "log").read_text() == "to a file"
    os.close(write)
