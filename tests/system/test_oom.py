"""A command that the kernel kills because the memory of its container is used up."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.fleet import Fleet, outcomes
from tests.waiting import wait_until

LIMIT_BYTES = 192 << 20
_VERSION_1 = Path("/sys/fs/cgroup/memory")
_VERSION_2 = Path("/sys/fs/cgroup")


@pytest.fixture
def container() -> Iterator[Path]:
    """A memory cgroup of the kernel, as a container's is."""
    parent, limit = _VERSION_1, "memory.limit_in_bytes"
    if not (_VERSION_1 / limit).exists():
        parent, limit = _VERSION_2, "memory.max"
    group = parent / f"kelpie-test-{uuid.uuid4().hex[:8]}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"a memory cgroup is missing: no group can be made in {parent}: {error.strerror}")
    try:
        (group / limit).write_text(str(LIMIT_BYTES))
    except OSError as error:
        group.rmdir()
        offered = parent / "cgroup.subtree_control"
        controllers = offered.read_text().split() if offered.exists() else []
        pytest.skip(
            f"a limit on memory is missing: {limit} of a new group of {parent} cannot be written "
            f"({error.strerror}); controllers there: {', '.join(controllers) or 'none'}"
        )
    yield group
    wait_until(lambda: not (group / "cgroup.procs").read_text(), "every process of the group has ended")
    group.rmdir()


def test_a_command_that_uses_up_the_memory_has_failed_and_its_owner_is_told_why(
    container: Path, fleet: Fleet
) -> None:
    node = fleet.node()
    (container / "cgroup.procs").write_text(str(node.process.pid))
    wait_until(lambda: node.says("worker started"), "the worker runs")
    job = fleet.submit("", command="tail", arguments=["/dev/zero"], max_failures=1)
    failed = fleet.wait(job, "failed")
    (attempt,) = failed["attempts"]
    assert (outcomes(failed), failed["num_failures"]) == (["app_failed"], 1)
    assert attempt["out_of_memory"]
    assert attempt["reason"] == "killed by signal 9 (SIGKILL): out of memory"
    # The container and its worker live on, and a death that is no lack of memory is told apart.
    shot = fleet.wait(fleet.submit("kill -9 $$", max_failures=1), "failed")["attempts"][0]
    assert (shot["machine_id"], shot["signal"], shot["out_of_memory"]) == (node.name, 9, False)
    node.stop()
